"""Measures how fast policies answer, and simulations step, side by side on one core.

    python -m training.benchmark policy-latency --report build/reports/latency.json
    --picture build/reports/latency.png
    python -m training.benchmark rollouts

Latency: batch 1, one thread, full precision unless said. Every candidate is called in turn, round
after round, so that a busy machine is busy for all of them: trust the ratios of one run, not the
milliseconds of two. Weights are random where no bundle is named: they do not change the time.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnxruntime
import torch
import tyro
from diffusers import DDIMScheduler
from torch import Tensor, nn

from policies.beso.decoder import LEVEL_SCALE
from policies.beso.diffusion import SamplerSettings
from policies.beso.export import export_onnx
from policies.beso.network import NetworkSettings
from policies.beso.policy import ScorePolicy, build_network
from policies.beso.quantise import quantise
from policies.bundle import load_bundle
from policies.graph import make_session
from policies.manifest import GRAPH, WEIGHTS
from policies.runtime import Policy
from training.benchmark_rollouts import Rollouts, rollouts
from training.evaluate import current_commit
from training.export import load_run
from training.progress import Progress

# Diffusion Policy's published network for low-dimensional observations: ten rows, of which eight
# actions are executed per call.
PEER: dict[str, Any] = {
    "kind": "decoder",
    "width": 256,
    "blocks": 8,
    "heads": 4,
    "window": 2,
    "horizon": 9,
}
PEER_EXECUTED = 8


@dataclass(frozen=True)
class PolicyLatency:
    """Time to draw one chunk: torch, onnxruntime and int8, next to Diffusion Policy's network."""

    bundle: str = "peg_beso"
    """Bundle served beside the networks of the papers: name in the zoo, or a folder."""
    rounds: int = 40
    """Times to go round the candidates."""
    calls: int = 5
    """Calls of each candidate per round."""
    report: Path | None = None
    """JSON file to write."""
    picture: Path | None = None
    """PNG to draw."""


@dataclass(frozen=True)
class Candidate:
    """Something that answers one observation when called."""

    name: str
    call: Callable[[], Any]
    executed: int
    """Actions executed per call."""
    parameters_m: float
    steps: int
    """Evaluations of the network per call."""
    eager: str | None = None
    """The candidate it is to be compared with: the same network in eager torch."""


def parameters_m(module: nn.Module) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in module.parameters()) / 1e6


def beso_candidates(
    title: str, settings: NetworkSettings, executed: int, folder: Path
) -> list[Candidate]:
    """One network with its 3-step sampler: eager torch, one graph in fp32 and in int8."""
    torch.manual_seed(0)
    policy = ScorePolicy(settings).eval().requires_grad_(False)
    for parameter in policy.network.parameters():
        # As after training: onnxruntime leaves out biases that are zero.
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    policy.sampler = SamplerSettings(steps=3)
    graph = folder / "policy.onnx"
    export_onnx(policy, graph)
    generator = np.random.default_rng(0)
    shape = (settings.window, settings.input_size)
    feed = {
        "observation": generator.standard_normal((1, *shape), dtype=np.float32),
        "noise": generator.standard_normal((1, *policy.noise_shape), dtype=np.float32),
    }
    tensors = [torch.from_numpy(array) for array in feed.values()]

    def eager() -> Tensor:
        with torch.inference_mode():
            actions: Tensor = policy(*tensors)
        return actions

    size, name = parameters_m(policy.network), f"{title}, eager torch"
    candidates = [Candidate(name, eager, executed, size, 3)]
    content = graph.read_bytes()
    for precision, model in (("fp32", content), ("int8", quantise(content, blockwise=False))):
        session = make_session(model)

        def run(session: Any = session) -> Any:
            return session.run(None, feed)

        candidates.append(
            Candidate(f"{title}, onnx {precision}", run, executed, size, 3, eager=name)
        )
    return candidates


def peer_candidate(observation_size: int, action_size: int) -> Candidate:
    """Diffusion Policy as it is served: eager torch, its published network, diffusers' DDIM with 10
    steps; what its network makes of the observations is computed anew at each.
    """
    torch.manual_seed(0)
    settings = NetworkSettings(
        **PEER, input_size=observation_size, goal_size=0, action_size=action_size
    )
    network = build_network(settings).eval()
    scheduler = DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=True)
    scheduler.set_timesteps(10)
    observation = torch.randn(1, settings.window, observation_size)

    def call() -> Tensor:
        with torch.inference_mode():
            x = torch.randn(1, settings.rows, action_size)
            for step in scheduler.timesteps:
                noise = network(x, step.expand(1) / LEVEL_SCALE, network.encode(observation))
                x = scheduler.step(noise, step, x).prev_sample
        return x

    return Candidate(
        "Diffusion Policy transformer, DDIM 10, eager torch",
        call,
        PEER_EXECUTED,
        parameters_m(network),
        10,
    )


def bundle_candidates(name: str) -> list[Candidate]:
    """A bundle through the runtime that the nodes use, checks of its input included; and its graph
    in int8, if it is in fp32 and keeps its weights.
    """
    bundle = load_bundle(name, hardware_hash=None)
    policy = Policy(bundle)
    policy.warm_up()
    check, manifest = bundle.check, bundle.manifest
    executed = manifest.execute_steps
    steps = int(manifest.sampler["steps"]) if manifest.sampler else 1
    title, size = f"bundle {bundle.name}", math.nan
    candidates = []
    if manifest.precision == "fp32" and (bundle.folder / WEIGHTS).exists():
        network = load_run(bundle.folder).policy.network
        size = parameters_m(network)
        session = make_session(
            quantise((bundle.folder / GRAPH).read_bytes(), network.settings.one_row)
        )
        feed = {"observation": check.observation[:1], "noise": check.noise[:1]}
        call = functools.partial(session.run, None, feed)
        candidates.append(Candidate(f"{title}, onnx int8", call, executed, size, steps))
    call = functools.partial(policy.infer, check.observation[:1], check.noise[:1])
    served = f"{title} {manifest.precision}, policies.runtime"
    return [*candidates, Candidate(served, call, executed, size, steps)]


def measure(args: PolicyLatency, candidates: list[Candidate]) -> dict[str, np.ndarray]:
    """Wall time of each call, ms, by candidate."""
    times: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for candidate in candidates:
        for _ in range(5):
            candidate.call()
    progress = Progress(args.rounds, "rounds")
    gc.collect()
    gc.disable()
    try:
        for done in range(args.rounds):
            for candidate in candidates:
                # The caches hold the previous candidate's weights: not counted.
                candidate.call()
                for _ in range(args.calls):
                    started = time.perf_counter_ns()
                    candidate.call()
                    times[candidate.name].append((time.perf_counter_ns() - started) / 1e6)
            progress.show(done + 1, f"{len(candidates)} candidates")
    finally:
        gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    about = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(about.get("flags", about.get("Features", "")).split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    return {
        "cpu": about.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in flags],
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def rows_of(candidates: list[Candidate], times: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The table: milliseconds per call, per executed action, and how many times faster."""
    p50 = {name: float(np.median(values)) for name, values in times.items()}
    (peer,) = (c for c in candidates if c.name.startswith("Diffusion Policy"))
    peer_per_action = p50[peer.name] / peer.executed
    rows = []
    for candidate in candidates:
        values = times[candidate.name]
        rows.append(
            {
                "name": candidate.name,
                "parameters_m": round(candidate.parameters_m, 2),
                "steps": candidate.steps,
                "executed": candidate.executed,
                "p50_ms": p50[candidate.name],
                "p99_ms": float(np.percentile(values, 99)),
                "per_action_ms": p50[candidate.name] / candidate.executed,
                "times_eager": p50[candidate.eager] / p50[candidate.name]
                if candidate.eager
                else None,
                "times_peer": peer_per_action / (p50[candidate.name] / candidate.executed),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| candidate | M parameters | steps | p50 ms | p99 ms | x eager | actions per call "
        "| ms per action | x Diffusion Policy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        eager = f"{row['times_eager']:.1f}" if row["times_eager"] else ""
        size = "" if math.isnan(row["parameters_m"]) else f"{row['parameters_m']:.2f}"
        lines.append(
            f"| {row['name']} | {size} | {row['steps']} | {row['p50_ms']:.2f} | "
            f"{row['p99_ms']:.2f} | {eager} | {row['executed']} | {row['per_action_ms']:.2f} | "
            f"{row['times_peer']:.1f} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """Bars of p50, with p99 as a whisker, on a logarithmic axis."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 0.45 * len(rows) + 1.4), layout="constrained")
    names = [row["name"] for row in rows]
    p50 = np.array([row["p50_ms"] for row in rows])
    late = np.array([row["p99_ms"] for row in rows]) - p50
    colours = ["0.6" if "eager" in name else "C0" for name in names]
    axis.barh(names, p50, xerr=[np.zeros_like(late), late], color=colours, capsize=2)
    for at, value in enumerate(p50):
        axis.text(value * 0.93, at, f"{value:.2f}", ha="right", va="center", color="white")
    axis.set_xscale("log")
    axis.set_xlim(left=p50.min() / 4)
    axis.invert_yaxis()
    axis.set_xlabel("ms per call, p50 and p99, batch 1 on one core")
    axis.set_title(f"{about['cpu']}\n{', '.join(about['instructions'])}", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def policy_latency(args: PolicyLatency) -> None:
    """Builds the candidates, measures them and prints the table."""
    for name in ("rounds", "calls"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: got {getattr(args, name)}, expected at least 1")
    torch.set_num_threads(1)
    # Sizes of the paper's kitchen network; observation 30, action 9, two goal states.
    kitchen = {
        "kind": "transformer",
        "input_size": 90,
        "goal_size": 60,
        "action_size": 9,
        "horizon": 1,
        "width": 360,
        "blocks": 6,
        "heads": 6,
        "window": 4,
        "goal_states": 2,
    }
    with tempfile.TemporaryDirectory() as folder:
        candidates = [
            *beso_candidates("beso kitchen", NetworkSettings(**kitchen), 1, Path(folder)),
            *beso_candidates(
                "beso kitchen, prefix order",
                NetworkSettings(**kitchen, order="prefix"),
                1,
                Path(folder),
            ),
            peer_candidate(30, 9),
            *bundle_candidates(args.bundle),
        ]
        times = measure(args, candidates)
    about, rows = machine(), rows_of(candidates, times)
    print(f"{about['cpu']}, {about['cores']} cores, {', '.join(about['instructions'])}; ", end="")
    print(f"load {about['load_average']}, torch {about['torch']}, ", end="")
    print(f"onnxruntime {about['onnxruntime']}")
    print(f"batch 1, one thread, {args.rounds * args.calls} calls each, in turn\n")
    print(table(rows))
    if args.report:
        settings = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(args).items()}
        content = {"machine": about, "rows": rows, "settings": settings, "commit": current_commit()}
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(json.dumps(content, indent=2) + "\n")
    if args.picture:
        draw(rows, about, args.picture)


if __name__ == "__main__":
    try:
        chosen = tyro.extras.subcommand_cli_from_dict(
            {"policy-latency": PolicyLatency, "rollouts": Rollouts}
        )
        if isinstance(chosen, Rollouts):
            rollouts(chosen)
        else:
            policy_latency(chosen)
    except ValueError as error:
        sys.exit(f"error: {error}")
