"""Drivers: plain classes that talk to machines, and the node that puts one on the ROS graph."""
