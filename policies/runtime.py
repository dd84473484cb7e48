"""Runs a policy bundle: observations in, action chunks out, one graph call each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policies.bundle import Bundle, Float32Array


class PolicyError(ValueError):
    """The policy cannot answer: an input is not valid or an output is not finite."""


class Policy:
    """A loaded bundle ready to be asked.

    It neither scales nor clips: normalisation and the sampler's loop are inside the graph, and the
    limits are the safety filter's.

    Args:
        bundle: what ``policies.bundle.load_bundle`` returned.
    """

    WARM_UP_RUNS = 3

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def warm_up(self) -> None:
        """Runs the graph a few times on the bundle's check input, as first calls are slow.

        Raises:
            PolicyError: an output is not finite.
        """
        for _ in range(self.WARM_UP_RUNS):
            self.infer(self.bundle.check.observation[:1], self.bundle.check.noise[:1])

    def infer(
        self,
        observation: npt.ArrayLike,
        noise: npt.ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Float32Array:
        """Answers a batch of observations.

        Args:
            observation: (N, D), as ``Spec.flatten_observation`` gives it, in physical units.
            noise: (N, H, A) unit normal; drawn from ``rng`` when absent. Its scale is in the graph.
            rng: needed when ``noise`` is absent.

        Returns:
            (N, H, A) float32 actions in physical units.

        Raises:
            PolicyError: a shape is wrong, an input or output is not finite, or neither ``noise``
                nor ``rng`` is given.
        """
        inputs = np.asarray(observation, dtype=np.float32)
        size = self.bundle.spec.input_size
        if inputs.ndim != 2 or inputs.shape[1] != size:
            raise PolicyError(f"observation: got shape {inputs.shape}, expected (N, {size})")
        shape = (len(inputs), *self.bundle.noise_shape)
        if noise is None:
            if rng is None:
                raise PolicyError("noise: got neither noise nor rng, expected one of them")
            noise = rng.standard_normal(shape, dtype=np.float32)
        noise = np.asarray(noise, dtype=np.float32)
        if noise.shape != shape:
            raise PolicyError(f"noise: got shape {noise.shape}, expected {shape}")
        for name, array in (("observation", inputs), ("noise", noise)):
            if not np.isfinite(array).all():
                raise PolicyError(f"{name}: got a value that is not finite, expected finite values")
        actions = self.bundle.run(inputs, noise)
        if not np.isfinite(actions).all():
            raise PolicyError("actions: got a value that is not finite, expected finite values")
        return actions
