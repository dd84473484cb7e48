"""BESO: goal-conditioned imitation with score-based diffusion (training side; serving needs only
the exported graph).
"""
