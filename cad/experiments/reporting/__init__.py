"""Turn finished stages into the data that :mod:`cad.reports` reports on."""
