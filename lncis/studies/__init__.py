"""How a study runs: run.py (run_study), driver/loop.py (the loop), trials.py (decisions).

Which studies exist: the YAML files in the top-level folder studies/.
"""
