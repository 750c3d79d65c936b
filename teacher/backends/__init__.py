"""The services a teacher can be asked through, one a file."""
