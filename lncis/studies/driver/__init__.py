"""The process that drives a study: its loop, Ray Tune's trials, worker groups, probes, MLflow."""
