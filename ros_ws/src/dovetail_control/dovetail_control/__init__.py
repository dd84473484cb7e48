"""The control loop between action chunks and joint commands."""
