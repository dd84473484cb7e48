# Source this file (bash, zsh or a POSIX sh at the repository root) to work by hand:
#   . ros_ws/env.sh && ros2 launch launch/assembly.launch.py
# It puts .venv-train, .venv and the colcon overlay first on PATH, PYTHONPATH and AMENT_PREFIX_PATH.

if [ -n "${BASH_SOURCE:-}" ]; then
    _dovetail_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE}")/.." && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
    _dovetail_root=$(CDPATH='' cd -- "$(dirname -- "${(%):-%x}")/.." && pwd)
else
    _dovetail_root=$(pwd)
fi

if [ ! -x "$_dovetail_root/.venv/bin/python" ]; then
    echo "ros_ws/env.sh: $_dovetail_root/.venv is missing: run 'make setup' first" \
         "(a plain sh must source this file from the repository root)" >&2
    unset _dovetail_root
    return 1
fi

# Without a sourced ROS 2 the environment's own prefix is the underlay.
if [ -e "$_dovetail_root/.venv/share/ament_index" ]; then
    unset LD_LIBRARY_PATH PYTHONPATH PYTHONHOME _ROS_WHEELS_BOOTSTRAP_COMPLETE
    export AMENT_PREFIX_PATH="$_dovetail_root/.venv"
    export CMAKE_PREFIX_PATH="$_dovetail_root/.venv"
    export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
fi

export VIRTUAL_ENV="$_dovetail_root/.venv"
# Once `make setup-train` has made it, `python` is that of training; it sees all of .venv.
_dovetail_bin="$_dovetail_root/.venv-train/bin:$VIRTUAL_ENV/bin"
case ":$PATH:" in
    *":$_dovetail_bin:"*) ;;
    *) export PATH="$_dovetail_bin:$PATH" ;;
esac

if [ -f "$_dovetail_root/ros_ws/install/local_setup.sh" ]; then
    COLCON_CURRENT_PREFIX="$_dovetail_root/ros_ws/install"
    # colcon's script cannot call an interpreter whose path has a space in it.
    COLCON_PYTHON_EXECUTABLE=$(readlink -f "$_dovetail_root/.venv/bin/python")
    . "$COLCON_CURRENT_PREFIX/local_setup.sh"
    unset COLCON_CURRENT_PREFIX COLCON_PYTHON_EXECUTABLE
fi
unset _dovetail_root _dovetail_bin
