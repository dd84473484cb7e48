# Two commands: `make assembly` sets everything up and runs the main job, `make test` checks everything.
# ARGS passes launch arguments: make assembly ARGS="products:=2 seed:=7". PYTHON chooses the interpreter (3.11 to 3.13).
SHELL := /bin/bash
export PYTHON
TRAIN := .venv-train/bin/python
# The drivers' plain parts; their nodes use rclpy, which has no types.
DRIVERS := --follow-imports=silent $(addprefix ros_ws/src/dovetail_drivers/dovetail_drivers/,commands.py mujoco_cell.py)

.PHONY: help setup setup-train assembly test lint format clean

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## environment, locked dependencies, ROS 2 and the colcon workspace
	@ros_ws/setup/setup.sh

setup-train: ## what training and the tests need on top
	@ros_ws/setup/setup.sh --training

assembly: setup ## set up and assemble: make assembly ARGS="products:=3 seed:=1 report:=report.json"
	@. ros_ws/env.sh && exec ros2 launch launch/assembly.launch.py $(ARGS)

test: setup-train lint ## linters, types and all tests
	@. ros_ws/env.sh && exec $(TRAIN) -m pytest $(ARGS)

lint: setup-train ## linters and types
	@$(TRAIN) -m ruff check . && $(TRAIN) -m mypy policies hardware_configs sim && $(TRAIN) -m mypy $(DRIVERS)

format: setup-train ## format the code
	@$(TRAIN) -m ruff check --fix . && $(TRAIN) -m ruff format .

clean: ## remove environments and builds
	rm -rf .venv .venv-train build ros_ws/build ros_ws/install ros_ws/log
