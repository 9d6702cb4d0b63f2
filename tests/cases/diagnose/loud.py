print("loaded")


def short(completion: str) -> float:
    return 1.0
