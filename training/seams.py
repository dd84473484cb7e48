"""Measures how smoothly chunks take over from each other, under delays, and what that costs.

    python -m training.seams --bundle peg_beso --delays-ms 0 50 100 200 --episodes 96
    --report build/reports/seams.json --picture build/reports/seams.png

Seeded episodes run in simulation through the real controller at its own rate. A chunk observed at a
policy step arrives the delay later and takes over at the first boundary between policy steps from
then on, indexed by consumption. Measured is the commanded joint acceleration, the second difference
of the commanded angles: within a policy step the B-spline's acceleration is the difference of two
actions, so that the step in which a new chunk takes over is the one that sees the seam. Steps in
which contact bends the command (the lead limit of the controller) and each episode's start from
rest are left out, for they jerk whoever plans; the `all` values have them. Needs no torch: it runs
what the nodes run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from hardware_configs import HardwareConfig, load
from policies.bundle import load_bundle
from policies.continuation import DEFAULT, Handover, delay_steps
from policies.control import Controller, JointCommand
from policies.runtime import Policy
from sim import tasks
from training.evaluate import current_commit
from training.progress import Progress
from training.rollout import (
    Actor,
    Batch,
    Episode,
    bundle_actor,
    run_episodes,
    wilson_interval,
)

Floats = npt.NDArray[np.floating]
ACCELERATION, BENT = "joint_acceleration_rad_s2", "lead_limited"
PLACES = ("seam", "elsewhere", "seam_all", "elsewhere_all")
# Over policy steps; of each step the largest value over its ticks and the joints.
STATISTICS = {"max": np.max, "p95": lambda peaks: np.percentile(peaks, 95), "median": np.median}


@dataclass(frozen=True)
class Args:
    """Measures how smoothly chunks take over from each other, under delays."""

    bundle: str = "peg_beso"
    """Name of a bundle in the zoo, or a folder's path."""
    delays_ms: tuple[float, ...] = (0.0, 50.0, 100.0, 200.0)
    """Times from an observation to the arrival of its chunk."""
    handovers: tuple[str, ...] = (
        "switch",
        f"blend:{max(DEFAULT.decay_steps, 2)}",
        f"inpaint:{DEFAULT.decay_steps}",
    )
    """Ways to take over: switch, blend:N or inpaint:N, with N rows over which the hold fades."""
    level: Literal["low", "med", "high"] = "med"
    """Level of randomisation."""
    clearance_mm: float | None = None
    """Gap between peg and socket on each side, mm; the task's own when left out."""
    seed0: int = 910_000
    """First seed."""
    episodes: int = 96
    """Episodes of each measurement."""
    report: Path | None = None
    """JSON file to write, after every measurement."""
    picture: Path | None = None
    """PNG to draw (needs matplotlib)."""
    num_envs: int = 48
    """Simulations stepped together."""
    threads: int = 1
    """Physics threads."""


class WatchedController(Controller):
    """The controller, keeping an eye on its own commands.

    Attributes:
        peaks: of each tick of the present policy step, the largest joint acceleration (batch,).
        bent: of the present policy step, the ticks (batch,) on which the lead was limited.
    """

    def __init__(self, config: HardwareConfig, action_hz: float, batch_size: int) -> None:
        # The commands of the last two ticks; nothing moves before an episode begins.
        self._before = np.zeros((2, batch_size, len(config.home_rad)))
        self.peaks: list[Floats] = []
        self._bent_before = np.zeros(batch_size, dtype=int)
        super().__init__(config, action_hz, batch_size)

    def reset(self, q_rad: Floats, gripper_width_m: Floats, ids: Any = slice(None)) -> None:
        """See Controller."""
        super().reset(q_rad, gripper_width_m, ids)
        self._before[:, ids] = q_rad

    def begin_step(self, action: Floats) -> None:
        """See Controller."""
        self.peaks = []
        self._bent_before = self.interventions["lead"].copy()
        super().begin_step(action)

    @property
    def bent(self) -> Floats:
        """See the class."""
        return np.asarray(self.interventions["lead"] - self._bent_before)

    def tick(self, q_measured_rad: Floats) -> JointCommand:
        """See Controller."""
        command = super().tick(q_measured_rad)
        second = command.q_rad - 2.0 * self._before[1] + self._before[0]
        self.peaks.append(np.abs(second).max(axis=-1) / self._dt_s**2)
        self._before = np.stack([self._before[1], command.q_rad])
        return command


class Watched:
    """Simulations whose `info` has besides, of each step, `peaks` (N, ticks) and `bent` (N,)."""

    def __init__(self, env: Batch) -> None:
        self._env = env
        env.controller = WatchedController(env.config, env.spec.rate_hz, env.num_envs)

    def __getattr__(self, name: str) -> Any:
        """Everything else is as in the simulations themselves."""
        return getattr(self._env, name)

    def step(self, actions: Floats) -> tuple[Floats, Floats, Floats, dict[str, Floats]]:
        """See sim.tasks.cell_batch.CellBatch."""
        observation, success, done, info = self._env.step(actions)
        controller = self._env.controller
        peaks = np.stack(controller.peaks, axis=1)
        return observation, success, done, {**info, ACCELERATION: peaks, BENT: controller.bent}


def read_handover(text: str) -> Handover:
    """A handover from "kind" or "kind:decay_steps"."""
    kind, _, decay = text.partition(":")
    if decay and not decay.isdecimal():
        raise ValueError(f"--handovers: got {text!r}, expected a kind, or a kind:rows")
    return Handover(kind, int(decay or 0))  # type: ignore[arg-type]


def takes_over(step: int, actor: Actor) -> bool:
    """Whether a new chunk takes over at this step of an episode."""
    since = step - actor.latency_steps
    return since > 0 and since % actor.execute_steps == 0


def sort_peaks(episodes: list[Episode], actor: Actor) -> dict[str, list[float]]:
    """Each step's largest joint acceleration, by whether it sees a seam and whether it is free."""
    peaks: dict[str, list[float]] = {name: [] for name in PLACES}
    for episode in episodes:
        bent = True  # an episode starts from rest
        for step, ticks in enumerate(episode.trace[ACCELERATION]):
            place = "seam" if takes_over(step, actor) else "elsewhere"
            # The second difference still sees what happened on the tick before the step.
            free, bent = not bent, bool(episode.trace[BENT][step])
            peaks[f"{place}_all"].append(float(ticks.max()))
            if free and not bent:
                peaks[place].append(float(ticks.max()))
    return peaks


def measure(args: Args, policy: Policy, handover: Handover, latency: int) -> dict[str, Any]:
    """Runs the episodes with one handover and one delay in steps."""
    env = Watched(
        tasks.make(
            "peg_insert",
            min(args.num_envs, args.episodes),
            args.level,
            args.clearance_mm,
            nthread=args.threads,
        )
    )
    actor = bundle_actor(policy, latency, handover)
    jumps_mm: list[float] = []

    def plan(env: Batch, observation: Floats, rows: Any, rngs: Any, last: Any) -> Floats:
        chunks = actor.plan(env, observation, rows, rngs, last)
        for new, old in zip(chunks, last, strict=True):
            if old is not None and old[1] + latency < len(old[0]):
                change_m = new[latency, :3] - old[0][old[1] + latency, :3]
                jumps_mm.append(1e3 * float(np.linalg.norm(change_m)))
        return chunks

    title = f"{handover.kind}:{handover.decay_steps} at {latency} steps"
    progress = Progress(args.episodes)
    episodes = run_episodes(
        env,
        replace(actor, plan=plan),
        range(args.seed0, args.seed0 + args.episodes),
        lambda over, won: progress.show(over, f"{title}: {won} successes"),
    )
    peaks = sort_peaks(episodes, actor)
    successes = sum(episode.success for episode in episodes)
    steps = [episode.steps for episode in episodes if episode.success]
    return {
        "latency_steps": latency,
        "execute_steps": actor.execute_steps,
        "episodes": args.episodes,
        "successes": successes,
        "ci95": [round(bound, 4) for bound in wilson_interval(successes, args.episodes)],
        "steps_median": float(np.median(steps)) if steps else None,
        **{
            f"{place}_{name}": round(float(function(values)), 3) if values else None
            for place, values in peaks.items()
            for name, function in STATISTICS.items()
        },
        "jump_p95_mm": round(float(np.percentile(jumps_mm, 95)), 3) if jumps_mm else None,
        **env.measures([episode.trace for episode in episodes]),
    }


def table(results: list[dict[str, Any]]) -> str:
    """One line per delay and handover."""
    lines = [
        f"{'delay':>6} {'handover':<10} {'seam max':>9} {'p95':>6} {'median':>6} "
        f"{'else max':>9} {'p95':>6} {'median':>6} {'all: seam':>9} {'else':>6} {'jump p95':>9} "
        f"{'success':>8}",
        f"{'ms':>6} {'':<10} {'rad/s^2':>9} {'':>6} {'':>6} {'':>9} {'':>6} {'':>6} {'':>9} "
        f"{'':>6} {'mm':>9}",
    ]
    for r in results:
        numbers = [
            r[f"{place}_{name}"] for place in ("seam", "elsewhere") for name in STATISTICS
        ] + [r["seam_all_max"], r["elsewhere_all_max"], r["jump_p95_mm"]]
        shown = ["-" if number is None else f"{number:.2f}" for number in numbers]
        widths = (9, 6, 6, 9, 6, 6, 9, 6, 9)
        cells = " ".join(f"{text:>{w}}" for text, w in zip(shown, widths, strict=True))
        success = f"{r['successes']}/{r['episodes']}"
        lines.append(f"{r['delay_ms']:>6g} {r['handover']:<10} {cells} {success:>8}")
    return "\n".join(lines)


def draw(args: Args, results: list[dict[str, Any]]) -> None:
    """Bars of the accelerations at seams, and of success, against the delay."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    assert args.picture is not None
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6))
    width = 0.8 / len(args.handovers)
    for i, handover in enumerate(args.handovers):
        mine = [r for r in results if r["handover"] == handover]
        at = np.arange(len(mine)) + (i - (len(args.handovers) - 1) / 2) * width
        for axis, key in zip(axes, ("seam_max", "seam_p95"), strict=False):
            axis.bar(at, [r[key] or 0.0 for r in mine], width, label=handover)
            elsewhere = [r[key.replace("seam", "elsewhere")] or 0.0 for r in mine]
            label = "elsewhere" if i == 0 else None
            axis.plot(at, elsewhere, "k_", markersize=50 * width, label=label)
        rates = np.array([100.0 * r["successes"] / r["episodes"] for r in mine])
        around = np.abs(100.0 * np.array([r["ci95"] for r in mine]).T - rates)
        axes[2].bar(at, rates, width, yerr=around, capsize=2)
    titles = ("largest joint acceleration", "95 % of the steps are below", "success")
    for axis, title, unit in zip(axes, titles, ("rad/s²", "rad/s²", "%"), strict=True):
        axis.set_xticks(range(len(args.delays_ms)), [f"{delay:g}" for delay in args.delays_ms])
        axis.set(title=title, xlabel="delay (ms)", ylabel=unit)
    axes[2].set_ylim(0, 100)
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.picture, dpi=150)
    pyplot.close(figure)


def main(args: Args) -> None:
    """Measures every handover at every delay, prints the table, writes report and picture."""
    if args.episodes < 1 or args.num_envs < 1:
        raise ValueError(
            f"--episodes, --num-envs: got {args.episodes}, {args.num_envs}, expected at least 1"
        )
    bundle = load_bundle(args.bundle, hardware_hash=load("panda").hash)
    handovers = {text: read_handover(text) for text in args.handovers}
    for text, handover in handovers.items():
        if handover.within(bundle.continues) != handover:
            raise ValueError(f"--handovers: got {text}, which {bundle.name} cannot do")
    policy = Policy(bundle)
    policy.warm_up()
    results: list[dict[str, Any]] = []
    # Delays that end in the same policy step differ in nothing that follows.
    known: dict[tuple[str, int], dict[str, Any]] = {}
    for delay_ms in args.delays_ms:
        latency = delay_steps(1e-3 * delay_ms, bundle.rate_hz)
        for text, handover in handovers.items():
            if (text, latency) not in known:
                known[text, latency] = measure(args, policy, handover, latency)
            results.append({"delay_ms": delay_ms, "handover": text, **known[text, latency]})
            if args.report:
                report = {
                    "bundle": args.bundle,
                    "level": args.level,
                    "seed0": args.seed0,
                    "results": results,
                    "commit": current_commit(),
                }
                args.report.parent.mkdir(parents=True, exist_ok=True)
                args.report.write_text(json.dumps(report, indent=2) + "\n")
    if args.picture:
        draw(args, results)
    print(table(results))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
