"""Pairwise cover: few rows in which every two values of different factors meet."""

import itertools
import random


def rows(factors, is_possible=lambda row: True, seed=1):
    """`factors` is name: values. Greedy, and the same at every run."""
    chance = random.Random(seed)
    names = list(factors)

    def draw():
        while True:
            row = {name: chance.choice(factors[name]) for name in names}
            if is_possible(row):
                return row

    def pairs(row):
        return set(itertools.combinations(row.items(), 2))

    missing = set().union(*(pairs(draw()) for _ in range(8_000)))
    result = []
    while missing:
        best = max((draw() for _ in range(40)), key=lambda row: len(pairs(row) & missing))
        covered = pairs(best) & missing
        if covered:
            missing -= covered
            result.append(best)
    return result
