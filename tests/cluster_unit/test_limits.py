"""How many jobs a user may still submit."""

from __future__ import annotations

import pytest

from cad.cluster.limits import Limits, parse_associations, room_for
from cad.cluster.profile import AllocationRequest

# sacctmgr -nP show user ... format=DefaultAccount,Account,Partition,MaxSubmitJobs,DefaultQOS,QOS
SAID = """\
lab|lab||10||low,normal
lab|lab|gpu|4||normal
lab|other||||normal
lab|free||||high,low
"""
LIMITS = Limits(parse_associations(SAID), {"low": 2}, (("lab", "normal"),) * 3 + (("lab", "low"),))


@pytest.mark.parametrize(
    ("asked", "room"),
    [
        ({}, 6),
        ({"partition": "cpu"}, 6),
        ({"partition": "gpu"}, 0),
        ({"account": "other"}, None),
        ({"qos": "low"}, 1),
        ({"account": "free", "qos": "low"}, 1),
        ({"account": "free"}, None),
        ({"account": "unheard-of"}, None),
    ],
)
def test_room(asked, room):
    assert room_for(AllocationRequest(**asked), LIMITS) == room


def test_rows_that_are_none():
    assert parse_associations("\nsacctmgr: error\n") == ()
