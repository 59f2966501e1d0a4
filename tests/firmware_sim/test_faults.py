"""What a cut propeller does, by hand."""

import numpy as np
import pytest

from covey.errors import UsageError
from firmware_sim.world.effects import active_factors
from firmware_sim.world.faults import PropellerCut
from firmware_sim.world.sensors import vibration_g


def test_three_millimetres_off_one_blade():
    # 20.5/23.5 = 0.872340; cubed 0.663844, to the fourth 0.579098; mean with a whole blade
    cut = PropellerCut(3, 3.0)
    assert cut.thrust_factor == pytest.approx((0.663844 + 1) / 2, abs=1e-5)
    assert cut.torque_factor == pytest.approx((0.579098 + 1) / 2, abs=1e-5)
    # 0.1 g x 3/23.5 missing at 22 mm
    assert cut.imbalance_kgm == pytest.approx(2.8085e-7, rel=1e-4)


def test_equal_cuts_leave_the_propeller_balanced():
    cut = PropellerCut(1, 2.0, other_cut_mm=2.0)
    assert cut.imbalance_kgm == 0.0
    assert cut.thrust_factor == pytest.approx((21.5 / 23.5) ** 3)


def test_factors_begin_at_the_onset_and_touch_one_rotor():
    faults = [[PropellerCut(2, 4.0, onset_s=5.0)], []]
    assert all((a == b).all() for a, b in zip(active_factors(faults, 4.99), (1, 1, 0), strict=True))
    thrust, torque, imbalance = active_factors(faults, 5.0)
    assert (thrust[0] < 1).tolist() == [False, True, False, False]
    assert (torque[0] < thrust[0]).tolist() == [False, True, False, False]
    assert (imbalance > 0).tolist() == [[False, True, False, False], [False] * 4]


@pytest.mark.parametrize(
    "wrong",
    [{"motor": 0}, {"motor": 5}, {"cut_mm": -1}, {"cut_mm": 9}, {"cut_mm": float("nan")}, {"onset_s": -1}],
)
def test_impossible_cuts_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        PropellerCut(**{"motor": 3, "cut_mm": 3.0, **wrong})


def test_the_accelerometer_filter_leaves_a_hundredth_of_the_shaking():
    # m r w^2 = 2.8085e-7 x 1900^2 = 1.01387 N on 36.2 g: 2.855 g; 1/(1 + (1900/188.496)^2) = 1/102.60: 0.02783 g
    imbalance, rotor = np.array([[2.8085e-7, 0, 0, 0]]), np.full((1, 4), 1900.0)
    shaken = [
        vibration_g(imbalance, rotor, np.full((1, 4), angle), np.array([0.0362]))[0]
        for angle in np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ]
    sizes = np.linalg.norm(np.array(shaken)[:, :2], axis=1)
    assert sizes == pytest.approx(0.02783, rel=1e-3)
