# %% [markdown]
# # cad from a notebook
# Open this file as a notebook (VS Code, Jupytext), or run it: `python examples/notebook.py`, from the
# repository's folder. docs/python.md lists all names.

# %% Run an experiment: what is missing of it, with a progress bar
import numpy as np

import cad

results = cad.run("examples/small.yaml", report=False)  # True: the report's page too

# %% Results as arrays: returns of every cell, (tasks, roll-outs, episodes)
for cell in results.cells:
    print(cell.label, cell.seed, cell.returns.shape, f"{cell.normalised.mean():.3f} of the optimum")

# %% ... and as tables: `results.frame()` gives them as data frames, where pandas is installed
returns = results.table("returns")
first = returns["episode"] == 0
print(f"first episodes: {returns['return'][first].mean():.2f}")

# %% Figures of the report: matplotlib, to be changed
figure = results.figure("learning")
figure.axes[0].set_title("My title")
figure.savefig("learning.png")

# %% Step a trained model by hand
stage = next(cell for cell in results.cells if cell.label == "CompressedAD").training
agent = cad.load_agent(stage)
env = agent.environments()  # the held-out tasks, one roll-out each
agent.reset(tasks=env.task_ids)
action = agent.act(env.reset())
total = np.zeros(len(env))
for _ in range(40):
    after = env.advance(action)
    total += after.rewards
    action = agent.act(after.observed, after.rewards, after.terminated, after.truncated)
print(f"{agent.memory.compressions} compressions, {agent.memory.state_bytes} bytes, rewards {total}")
print("latents:", agent.memory.latents.shape)
