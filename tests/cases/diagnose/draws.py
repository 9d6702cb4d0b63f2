"""A tool that draws random numbers."""

import random


def draws() -> float:
    return random.random()
