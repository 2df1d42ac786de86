"""Which cells are probed."""

from __future__ import annotations

from cad.evaluation.probes.schedule import why_no_probe


def test_what_has_nothing_to_probe(tiny_config):
    assert why_no_probe(tiny_config("ad")) == "no latents"
    assert why_no_probe(tiny_config(model={"max_compression_depth": 0})) == "no latents"
    assert "region_ad" in (why_no_probe(tiny_config("region_ad")) or "")
    short = tiny_config(evaluation={"n_episodes": 3})
    assert "3 episodes never decode a whole window" in (why_no_probe(short) or "")
    shown = tiny_config(evaluation={"demonstrated_episodes": 2})
    assert "demonstrated_episodes=2: what is probed are roll-outs of" in (why_no_probe(shown) or "")
    replaced = tiny_config(evaluation={"knock_out": "other", "knock_out_episode": 30})
    assert "knock_out=other: a probe makes latents again from the steps" in (why_no_probe(replaced) or "")
    assert why_no_probe(tiny_config(evaluation={"n_episodes": 4})) is None
