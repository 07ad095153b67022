"""The breakages of mutants.py still fit the code: each finds the text that it changes, and its tests."""

from mutants import BREAKAGES, HOME


def test_breakages_find_their_text_and_tests():
    lines = [line.strip() for line in BREAKAGES.strip().splitlines()]
    for head, old, _ in zip(*[iter(lines)] * 3, strict=True):
        name, file, tests = head.split(" | ")
        assert (HOME / "lib" / file).read_text().count(old) == 1, name
        assert all((HOME / "tests" / word).is_file() for word in tests.split() if word.endswith(".py")), name
