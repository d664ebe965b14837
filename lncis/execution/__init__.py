"""Trainings on Ray: the queue of tasks, the worker groups that take them, the cluster, shared storage."""
