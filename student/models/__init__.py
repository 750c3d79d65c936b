"""Student models by architecture."""
