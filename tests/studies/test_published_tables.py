"""Published tables that the studies print, against numbers written here by hand from the papers."""

from __future__ import annotations

from hemalens.studies.base import published


def test_table_of_bc_sam() -> None:
    """Means and deviations; a deviation that is not printed is 0."""
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
    spread = {
        "ResNeXt": (0.0, 0.0, 3.1, 2.4),
        "AE-CFE, rf": (0.5, 0.4, 0.5, 0.5),
        "BC-SAM, rf": (0.4, 0.4, 0.8, 1.0),
        "BC-SAM, svm_poly": (0.4, 0.6, 0.4, 0.4),
        "BC-SAM, xgboost": (0.5, 1.0, 1.0, 0.7),
        "BC-SAM, svm_rbf": (0.4, 0.6, 1.3, 0.5),
        "BC-SAM, ann": (0.3, 1.0, 2.4, 0.9),
    }
    for method, numbers in expected.items():
        found = [rows[method][key] for key in ("M_M", "M_A", "A_M", "A_A")]
        assert (tuple(mean for mean, _ in found), tuple(std for _, std in found)) == (numbers, spread[method])


def test_tables_of_bloodshot() -> None:
    found = published("bloodshot")
    assert {row: tuple(entry["accuracy"]) for row, entry in found["ten_shot"].items()} == {
        "softmax, random": (0.442, 0.088),
        "aam, random": (0.590, 0.029),
        "aam+consistency, random": (0.639, 0.047),
    }
    assert found["sweep"] == {"1": 0.60, "50": 0.65}
    assert found["all_labels"]["accuracy"] == 0.879
    assert {code: (e["precision"], e["recall"], e["n_images"]) for code, e in found["generic"].items()} == {
        "NGS": (0.99, 0.97, 1702),
        "NGB": (0.0, 0.0, 16),
        "LYT": (0.87, 0.94, 813),
        "MON": (0.86, 0.81, 334),
        "EOS": (0.79, 0.72, 99),
        "BAS": (0.0, 0.0, 20),
        "MYO": (0.84, 0.95, 631),
        "PMO": (0.0, 0.0, 12),
        "PMB": (0.0, 0.0, 4),
        "MYB": (0.0, 0.0, 10),
        "EBO": (0.0, 0.0, 20),
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
