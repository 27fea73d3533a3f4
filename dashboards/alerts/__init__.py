"""The alerts, one module a theme: what an operator would act on, and nothing else."""
