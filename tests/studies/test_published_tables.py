"""Published tables that the studies print, against numbers written here by hand from the papers."""

from __future__ import annotations

from hemalens.studies.base import published


def test_table_of_bc_sam() -> None:
    rows = {row["method"]: row for row in published("bc_sam")["row"]}
    expected = {
        "ResNeXt": (96.10, 8.10, 7.30, 85.70),
        "AE-CFE, rf": (83.70, 21.90, 45.10, 65.20),
        "BC-SAM, rf": (89.03, 24.07, 51.94, 70.41),
        "BC-SAM, svm_poly": (90.95, 24.77, 50.67, 72.99),
        "BC-SAM, xgboost": (91.41, 36.84, 49.22, 74.52),
        "BC-SAM, svm_rbf": (92.51, 47.50, 34.53, 78.27),
        "BC-SAM, ann": (92.28, 41.21, 42.93, 77.74),
    }
    for method, numbers in expected.items():
        assert tuple(rows[method][key][0] for key in ("M_M", "M_A", "A_M", "A_A")) == numbers


def test_tables_of_bloodshot() -> None:
    found = published("bloodshot")
    assert {row: tuple(entry["accuracy"]) for row, entry in found["ten_shot"].items()} == {
        "softmax, random": (0.442, 0.088),
        "aam, random": (0.590, 0.029),
        "aam+consistency, random": (0.639, 0.047),
    }
    assert found["sweep"] == {"1": 0.60, "50": 0.65}
    assert {code: entry[2] for code, entry in found["generic"].items()} == {
        "NGS": 1702,
        "NGB": 16,
        "LYT": 813,
        "MON": 334,
        "EOS": 99,
        "BAS": 20,
        "MYO": 631,
        "PMO": 12,
        "PMB": 4,
        "MYB": 10,
        "EBO": 20,
    }


def test_tables_of_the_white_cell_studies() -> None:
    fractions = ("1", "0.5", "0.1", "0.01")
    kong = published("wbc_augmentation")["accuracy"]
    assert {row: tuple(kong[row][f] for f in fractions) for row in ("scratch", "pretrained", "augmented")} == {
        "scratch": (97.05, 96.59, 92.53, 84.03),
        "pretrained": (97.57, 95.78, 93.06, 84.32),
        "augmented": (97.63, 96.47, 93.69, 82.93),
    }
    mo = published("wbc_combined")
    assert {row: tuple(mo["accuracy"][row][f] for f in fractions) for row in ("alone", "combined")} == {
        "alone": (97.90, 97.50, 95.10, 80.00),
        "combined": (97.60, 97.20, 95.00, 80.80),
    }
    assert (mo["cam16"], mo["prcc_classifier"], sorted(mo["prcc_cluster_sizes"])) == (92.13, 91.20, [610, 809])


def test_table_of_mobilevit() -> None:
    rows = published("mobilevit")["rows"]
    expected = {
        "resnet50": (0.950, 8.219, 23.524),
        "densenet121": (0.942, 5.725, 6.962),
        "mobilevit": (0.964, 1.799, 1.998),
        "mobilenetv2": (0.940, 0.495066, 2.234),
        "mobilenetv3": (0.937, 0.625849, 4.304),
    }
    assert len(rows) == 5
    for name, numbers in expected.items():
        (row,) = [entry for key, entry in rows.items() if key.startswith(name)]
        assert (row["accuracy"], row["gflops"], row["parameters_m"]) == numbers
