"""The serving environment stays small and quick; the training one lies over it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / ".venv" / "bin" / "python"
TRAINING = ROOT / ".venv-train" / "bin" / "python"

# A shell in which nobody sourced anything.
PLAIN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("LD_LIBRARY_PATH", "PYTHONPATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
}


def run(python: Path, code: str, environment: dict[str, str]) -> str:
    """Output of a piece of Python, which must exit with 0."""
    result = subprocess.run(
        [python, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_serving_environment_holds_no_torch() -> None:
    code = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('diffusers'))"
    assert run(SERVING, code, PLAIN) == "None None"


def test_runtime_imports_in_under_half_a_second_and_without_heavy_modules() -> None:
    # Processor time, so that other work on the machine does not count; the best of a few, so that
    # bytecode and files are in place.
    code = (
        "import time, sys; begin = time.process_time(); import policies.runtime;"
        "print(time.process_time() - begin, 'torch' in sys.modules, 'rclpy' in sys.modules)"
    )
    results = [run(SERVING, code, PLAIN).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _, _ in results) < 0.5
    assert all(heavy == ["False", "False"] for _, *heavy in results)


def test_training_environment_lies_over_the_serving_one_from_any_shell() -> None:
    code = (
        "import importlib.util as u, rclpy, sys;"
        "print(rclpy.ok(), u.find_spec('torch') is not None, sys.prefix)"
    )
    expected = f"False True {ROOT / '.venv-train'}"
    assert run(TRAINING, code, PLAIN) == expected
    assert run(TRAINING, code, dict(os.environ)) == expected


def test_serving_python_runs_as_a_child_of_the_training_one() -> None:
    code = (
        "import subprocess; subprocess.run("
        f"[{str(SERVING)!r}, '-c', 'import rclpy, sys; print(sys.prefix)'], check=True)"
    )
    assert run(TRAINING, code, PLAIN) == str(ROOT / ".venv")


def test_tests_run_in_the_training_environment() -> None:
    assert Path(sys.prefix) == ROOT / ".venv-train"


def test_a_shell_that_sourced_the_environment_trains() -> None:
    code = ". ros_ws/env.sh && python -c 'import torch, rclpy, sys; print(sys.prefix)'"
    result = subprocess.run(
        ["bash", "-c", code], env=PLAIN, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == str(ROOT / ".venv-train"), result.stderr


def test_a_script_names_the_module_that_the_serving_environment_lacks() -> None:
    command = [SERVING, "-m", "training.export", "--help"]
    result = subprocess.run(
        command, env=PLAIN, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: torch: not installed for ")
    assert "make setup-train" in result.stderr and "Traceback" not in result.stderr
