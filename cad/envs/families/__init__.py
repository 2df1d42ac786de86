"""Task families, one file each; :mod:`cad.envs.registry` lists them."""
