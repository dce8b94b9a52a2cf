"""The smallest environment a user can write."""

from sim.gym_env import DeepRacerEnv


class DeepRacerRacetrackEnv(DeepRacerEnv):
    pass
