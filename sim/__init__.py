"""Simulated cells, tasks and experts. Imports policies and hardware_configs, never ROS or torch.

Importing this package registers the Gymnasium environments, so that
`gymnasium.make("sim:dovetail/PegInsert-v0")` and, after `import sim`,
`gymnasium.make_vec("dovetail/PegInsert-v0", num_envs=16)` work.
"""

import gymnasium

from sim.gl import choose_backend

choose_backend()

gymnasium.register(
    id="dovetail/PegInsert-v0",
    entry_point="sim.gym_env:PegInsertEnv",
    vector_entry_point="sim.gym_env:PegInsertVectorEnv",
)
