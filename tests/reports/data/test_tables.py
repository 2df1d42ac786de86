"""Tables as CSV."""

from __future__ import annotations

from cad.reports.data import Table


def test_no_text_is_a_formula_and_numbers_stay_numbers() -> None:
    names = ["=1+1", "+x", "-x", "@SUM(A1)", "\t=1", "a=1", "-"]
    table = Table(("name", "value"), [(name, -0.5) for name in names])
    rows = table.as_csv().splitlines()[1:]
    assert rows == [
        "'=1+1,-0.5",
        "'+x,-0.5",
        "'-x,-0.5",
        "'@SUM(A1),-0.5",
        "'\t=1,-0.5",
        "a=1,-0.5",
        "-,-0.5",
    ]
    assert Table(("n",), [(-3,), (None,)]).as_csv() == 'n\n-3\n""\n'
