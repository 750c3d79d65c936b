"""The HTTP service: jobs, data sets, runs, predictions and the state of the installation."""
