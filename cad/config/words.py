"""Settings in the words of labels and legends."""

from __future__ import annotations


def setting_in_words(key: str, value: object) -> str:
    """The value of a dotted ``key`` as labels name it."""
    if key == "pretrain" and isinstance(value, dict):
        how = "frozen" if value.get("freeze") else "fine-tuned"
        rest = [f"{name} {value[name]}" for name in value if name not in ("enabled", "freeze")]
        return ", ".join([f"pre-trained, {how}" if value.get("enabled") else "from scratch", *rest])
    if key == "evaluation.env" and value is None:
        return "as trained"
    if key == "evaluation.env" and isinstance(value, dict):
        return ", ".join(f"{name} {number:,}" for name, number in value.items())
    if key == "evaluation.demonstrated_episodes" and value == 0:
        return "nothing demonstrated"
    if key == "model.n_latent" and value == 1:
        return "1 latent"
    return _IN_WORDS.get(key, key.rpartition(".")[2] + " {}").format(value)


_IN_WORDS = {
    "pretrain.enabled": "pre-trained: {}",
    "pretrain.freeze": "frozen: {}",
    "train.reconstruction_weight": "reconstruction weight {}",
    "model.max_compression_depth": "depth {}",
    "model.n_latent": "{} latents",
    "model.n_transit": "window {}",
    "evaluation.first_temperature": "from temperature {}",
    "evaluation.knock_out": "replaced ({})",
    "evaluation.demonstrated_episodes": "{} episodes demonstrated",
}
