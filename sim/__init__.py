"""Simulated cells, tasks and experts. Imports policies and hardware_configs, never ROS or torch."""
