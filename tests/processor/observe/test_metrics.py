"""Metrics are named after tailrace and have no label per run."""

from __future__ import annotations

from prometheus_client import REGISTRY

from processor.observe import metrics


def test_no_metric_has_a_label_per_run() -> None:
    """Their number has no bound, a registry's must have one."""
    labels = {label for name in metrics.__all__ for label in getattr(getattr(metrics, name), "_labelnames", ())}
    assert labels <= {"connection", "group", "inlet", "outcome", "reason", "route", "status", "task"}


def test_the_exposition_has_what_was_counted() -> None:
    """In Prometheus's text format, from the default registry."""
    before = REGISTRY.get_sample_value("tailrace_appends_total", {"outcome": "appended"}) or 0
    metrics.appends_total.labels("appended").inc(3)
    assert f'tailrace_appends_total{{outcome="appended"}} {before + 3}'.encode() in metrics.exposition()
