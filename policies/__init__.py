"""What runs on the robot, free of ROS and of torch."""
