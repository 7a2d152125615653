from bench.report import Report


def bench(**k) -> Report: ...
