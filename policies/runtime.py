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
        bound = () if bundle.residual is None else bundle.residual.bound
        self._bound = np.array(bound, dtype=np.float32)

    @property
    def refines(self) -> bool:
        """Whether each action of a chunk is to be corrected by `refine` before it is executed."""
        return self.bundle.residual is not None

    def warm_up(self) -> None:
        """Runs the graphs a few times on the bundle's check input, as first calls are slow.

        Raises:
            PolicyError: an output is not finite.
        """
        check = self.bundle.check
        for _ in range(self.WARM_UP_RUNS):
            chunk = self.infer(check.observation[:1], check.noise[:1])
            if self.refines:
                self.refine(check.newest[:1], chunk[:, 0])

    def infer(
        self,
        observation: npt.ArrayLike,
        noise: npt.ArrayLike | None = None,
        rng: np.random.Generator | None = None,
        previous: npt.ArrayLike | None = None,
        weight: npt.ArrayLike | None = None,
    ) -> Float32Array:
        """Answers a batch of observations.

        Args:
            observation: (N, D), as ``Spec.flatten_observation`` gives it, in physical units; (N, W,
                D), the newest last, for a policy with a window W above 1.
            noise: (N, *noise_shape) unit normal; drawn from ``rng`` when absent. Its scale is in
                the graph.
            rng: needed when ``noise`` is absent.
            previous: (N, H, A) actions of the chunk in execution, from the step of this observation
                on; left out, the chunk is made afresh.
            weight: (N, H) in 0..1, how far the answer is held to ``previous``.

        Returns:
            (N, H, A) float32 actions in physical units.

        Raises:
            PolicyError: a shape is wrong, an input or output is not finite, neither ``noise`` nor
                ``rng`` is given, or the bundle cannot continue a chunk.
        """
        inputs = np.asarray(observation, dtype=np.float32)
        shape = self.bundle.manifest.observation_shape
        if inputs.ndim != 1 + len(shape) or inputs.shape[1:] != shape:
            expected = ", ".join(map(str, shape))
            raise PolicyError(f"observation: got shape {inputs.shape}, expected (N, {expected})")
        if noise is None:
            if rng is None:
                raise PolicyError("noise: got neither noise nor rng, expected one of them")
            noise = rng.standard_normal((len(inputs), *self.bundle.noise_shape), dtype=np.float32)
        chunk = (len(inputs), self.bundle.horizon, self.bundle.spec.action_size)
        arrays: dict[str, tuple[npt.ArrayLike, tuple[int, ...]]] = {
            "noise": (noise, (len(inputs), *self.bundle.noise_shape))
        }
        if previous is not None or weight is not None:
            if previous is None or weight is None:
                raise PolicyError("previous, weight: got one of them, expected both or none")
            if not self.bundle.continues:
                raise PolicyError(
                    f"previous: got actions, expected none; {self.bundle.name} cannot continue them"
                )
            arrays |= {"previous": (previous, chunk), "weight": (weight, chunk[:2])}
        feed = {"observation": _finite("observation", inputs)}
        for name, (given, wanted) in arrays.items():
            feed[name] = _finite(name, np.asarray(given, dtype=np.float32))
            if feed[name].shape != wanted:
                raise PolicyError(f"{name}: got shape {feed[name].shape}, expected {wanted}")
        return _finite("actions", self.bundle.run(**feed))

    def refine(self, observation: npt.ArrayLike, base_action: npt.ArrayLike) -> Float32Array:
        """Corrects the actions that are next, from the newest observations.

        Args:
            observation: (N, D), physical units.
            base_action: (N, A), of the chunk in execution, physical units.

        Returns:
            (N, A) float32; no component is further from the base's than the manifest's bound, on
            which this insists whatever the graph says.

        Raises:
            PolicyError: the bundle has no residual, a shape is wrong, or an input or output is not
                finite.
        """
        spec = self.bundle.spec
        if not self.refines:
            raise PolicyError(f"{self.bundle.name}: got no residual, expected one to refine with")
        inputs = {
            "observation": (np.asarray(observation, dtype=np.float32), spec.input_size),
            "base_action": (np.asarray(base_action, dtype=np.float32), spec.action_size),
        }
        rows = len(inputs["observation"][0]) if inputs["observation"][0].ndim else 0
        for name, (array, size) in inputs.items():
            if array.shape != (rows, size):
                raise PolicyError(f"{name}: got shape {array.shape}, expected ({rows}, {size})")
        seen, base = (_finite(name, array) for name, (array, _) in inputs.items())
        refined = _finite("action", self.bundle.run_residual(seen, base))
        return np.asarray(base + np.clip(refined - base, -self._bound, self._bound))


def _finite(name: str, array: Float32Array) -> Float32Array:
    if not np.isfinite(array).all():
        raise PolicyError(f"{name}: got a value that is not finite, expected finite values")
    return array
