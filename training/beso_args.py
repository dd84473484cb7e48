"""What training.train_beso can be asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.beso.diffusion import SamplerSettings


@dataclass(frozen=True)
class Args:
    """Trains a score-based diffusion policy on demonstrations."""

    # Run
    data: tuple[Path, ...]
    """Demonstrations from training.collect; several files are laid end to end."""
    name: str = "peg_beso"
    """Run name; results go to <runs>/<name>/."""
    runs: Path = Path("build/runs")
    """Folder of all runs."""
    resume: bool = False
    """Continue from the run's last checkpoint."""
    start_from: Path | None = None
    """Finished run whose weights and statistics to start from, when data were added since."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    threads: int = 1
    """CPU threads of torch."""

    # Method and network
    method: Literal["beso", "bc", "gmm", "ddpm"] = "beso"
    """Score-based diffusion; or a baseline: regression, mixture of Gaussians, DDPM."""
    network: Literal["mlp", "transformer", "decoder"] = "mlp"
    """Residual MLP, BESO's causal transformer, or Diffusion Policy's decoder."""
    width: int = 384
    """Width of the network."""
    blocks: int = 3
    """Residual blocks or transformer layers."""
    heads: int = 4
    """Attention heads (transformers)."""
    film: bool = False
    """The observation scales and shifts every block (MLP), see NetworkSettings: where several
    answers are right.
    """
    horizon: int = 8
    """Actions per chunk."""
    window: int = 1
    """Observations in the input; --window 5 --horizon 1 is the paper's setting for block-push."""
    order: Literal["paper", "prefix"] = "paper"
    """Order of the transformer's tokens; "prefix" is computed faster, see NetworkSettings."""

    lead_noise: float = 0.0
    """Standard deviation, m, of sideways errors on the observed lead of the command, for which the
    chunk to learn makes up: so that the network looks at what it goes for, and not only at which
    way it goes already; see training.perturb.
    """
    scene_shift: float = 0.0
    """Standard deviation, m, of shifts along the table of all that is given in the robot's base
    frame, which leave what to do as it is: for things that always stand near the same places.
    """
    tool_shift: float = 0.0
    """Standard deviation, m, of sideways shifts of the tool under its command, where nothing is
    near, which leave what to command as it is.
    """

    # Goals
    goal_states: int = 1
    """Future states that make up a goal."""
    hindsight_steps: int = 0
    """Goals are what was achieved up to so many steps later (0: the goals of the file)."""
    hindsight_draws: int = 1
    """How far ahead is the furthest of so many even draws: more than 1 where it is goals that take
    long that will be asked for.
    """
    start_weight: int = 1
    """How often a row among the first ones of its episode counts. There every choice is still open,
    and whoever runs a policy begins there.
    """
    start_rows: int | None = None
    """How many rows are the first ones; the horizon's when left out."""

    # Diffusion
    sigma_min: float = 0.005
    """Smallest noise level, in units of which an action's standard deviation is 0.5."""
    sigma_max: float = 10.0
    """Largest noise level. It has to drown a whole chunk, whose rows say much the same: see
    policies/beso/README.md.
    """
    density_loc: float = math.log(0.5)
    """Mean of ln(sigma) in training."""
    density_scale: float = 1.0
    """Scale of ln(sigma) in training (log-logistic)."""
    goal_drop: float = 0.0
    """Probability of hiding the goal of a sample, for classifier-free guidance."""
    sampler: SamplerSettings = SamplerSettings(sigma_min=0.05, sigma_max=10.0, noise_scale=0.5)
    """Sampler of validation and rollouts; it travels with the checkpoint and is the default at
    export.
    """

    # Few steps
    reflow: Path | None = None
    """Finished run whose own samples become the targets, each with the noise it came from; few
    steps then do as well as many. Starts from its weights, or from those of --start-from; see
    training.reflow. Noise and guidance of those samples are those of --sampler.sigma-max,
    --sampler.noise-scale and --sampler.cfg-lambda; the new network's own are 1: it has learned
    them.
    """
    reflow_sampler: str = "ddim"
    """Sampler of those samples; a deterministic one."""
    reflow_steps: int = 10
    """Denoising steps of those samples."""
    reflow_windows: int = 1
    """Pieces of the path that are straightened each by itself, between the levels that so many
    steps of --sampler visit. With one the whole path is; more, for as many steps, are learned
    better where several answers are right. The new network then keeps levels and noise.
    """
    reflow_pairs: int = 200_000
    """How many of them."""
    reflow_asked: float = 0.0
    """Share of them whose goal is what some episode of the data begins with, things at rest, in
    place of hindsight: the first network can be asked for what no one was seen to do.
    """
    reflow_rounds: int = 1
    """Times in the course of the training that they are drawn. Half of the later ones begin where
    the new network's own steps lead, with --start-from those of the first round too; with one
    window they are only fresh.
    """
    reflow_episodes: int = 0
    """Episodes in simulation that the new network acts in before each such round. Half of the
    pairs are of what it saw there: its own mistakes lead to places that the data do not know (Ross
    et al. 2011, DAgger; the first network is the expert).
    """

    # Optimisation
    huber: float = 0.0
    """Root mean square error of a sample from which the loss is linear in it, not quadratic
    (pseudo-Huber; 0: quadratic throughout). For --reflow where several answers are right: between
    two the mean is none of them, the median is one. Without pairs it would not learn a score.
    """
    steps: int = 20_000
    """Gradient steps."""
    batch_size: int = 512
    """Samples per step."""
    learning_rate: float | None = None
    """Largest learning rate (AdamW); 3e-3 for the MLP, the papers' 1e-4 for the transformers when
    left out.
    """
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    warm_up: int = 500
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    bf16: bool = False
    """Matrix products of the loss in bfloat16; weights, sums and what is served stay in single
    precision. Faster where the processor multiplies such numbers (AMX: amx_bf16 in /proc/cpuinfo),
    slower elsewhere.
    """
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones used."""

    # Watching
    validation_share: float = 0.05
    """Share of the episodes held out."""
    log_every: int = 1000
    """Steps between two lines of metrics; a checkpoint is written with each."""
    rollout_every: int = 0
    """Steps between two rollouts in simulation (0: none)."""
    rollout_episodes: int = 64
    """Episodes of a rollout, seeds 900,000 and up, at the clearance of the data."""
    rollout_level: Literal["low", "med", "high"] = "med"
    """Level of a rollout."""
    execute_steps: int = 2
    """Actions of a chunk executed in rollouts, and by default after export."""


LEARNING_RATES = {"mlp": 3e-3, "transformer": 1e-4, "decoder": 1e-4}


def learning_rate(args: Args, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to 1 %."""
    largest = LEARNING_RATES[args.network] if args.learning_rate is None else args.learning_rate
    if step < args.warm_up:
        return largest * (step + 1) / args.warm_up
    if args.schedule == "constant":
        return largest
    progress = (step - args.warm_up) / max(1, args.steps - args.warm_up)
    return largest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def check(args: Args) -> None:
    """Raises ValueError for values that are wrong by themselves, whatever the data."""
    if not 0.0 < args.sigma_min < args.sigma_max:
        raise ValueError(
            f"--sigma-min: got {args.sigma_min}, expected between 0 and {args.sigma_max}"
        )
    if args.method == "beso":
        args.sampler.check_trained("--sampler.sigma-max", args.sigma_max)
    if args.reflow:
        if args.method != "beso":
            raise ValueError(f"--method: got {args.method}, expected beso for --reflow")
        for name in ("reflow_windows", "reflow_rounds"):
            if getattr(args, name) < 1:
                shown = name.replace("_", "-")
                raise ValueError(f"--{shown}: got {getattr(args, name)}, expected at least 1")
    if args.reflow_asked and not args.hindsight_steps:
        raise ValueError(
            f"--reflow-asked: got {args.reflow_asked} without --hindsight-steps, expected 0"
        )
    if args.reflow_episodes and not args.start_from and args.reflow_rounds < 2:
        raise ValueError(
            f"--reflow-episodes: got {args.reflow_episodes}, expected 0 with fewer than two "
            "--reflow-rounds and no --start-from"
        )
    if args.huber < 0.0 or (args.huber > 0.0 and args.method == "beso" and not args.reflow):
        raise ValueError(f"--huber: got {args.huber}, expected 0, or more with --reflow")
    for name in ("lead_noise", "scene_shift", "tool_shift"):
        std, shown = getattr(args, name), name.replace("_", "-")
        if std < 0.0 or (std > 0.0 and args.window > 1):
            raise ValueError(
                f"--{shown}: got {std}, expected at least 0, and 0 with a --window above 1"
            )
    if not 0.0 < args.validation_share < 1.0:
        raise ValueError(
            f"--validation-share: got {args.validation_share}, expected between 0 and 1"
        )
