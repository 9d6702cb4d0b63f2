import random


def lucky(completion: str) -> float:
    return random.random()
