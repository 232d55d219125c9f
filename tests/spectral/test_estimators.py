"""The scikit-learn estimators: the library's own checks, pipelines, and subspaces of its peers."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.decomposition import KernelPCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.manifold import Isomap, SpectralEmbedding
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from sslspec_fast import spectral
from sslspec_fast.spectral import BarlowTwinsEmbedding, SimCLREmbedding, VICRegEmbedding

ALL = (VICRegEmbedding, SimCLREmbedding, BarlowTwinsEmbedding)


@parametrize_with_checks(
    [
        VICRegEmbedding(),
        SimCLREmbedding(regime="linear"),
        BarlowTwinsEmbedding(affinity="labels", regime="linear"),
        VICRegEmbedding(affinity="precomputed"),
        VICRegEmbedding(affinity="precomputed", measure="degree"),
        BarlowTwinsEmbedding(affinity="precomputed"),
        SimCLREmbedding(affinity="precomputed"),
    ]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def blobs(n=60, d=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.standard_normal((n, d)) + 4 * rng.standard_normal((3, d))[y], y


@pytest.mark.parametrize("regime", ["nonparametric", "linear", "kernel"])
@pytest.mark.parametrize("estimator", ALL)
def test_fit_transform_and_new_rows(estimator, regime):
    x, _ = blobs()
    model = estimator(n_components=2, n_neighbors=8, regime=regime)
    z = model.fit_transform(x)
    assert z.shape == (60, 2)
    assert np.allclose(model.transform(x), z, atol=1e-8 * np.abs(z).max())
    fresh = model.transform(x[:5] + 1e-9)
    assert np.isfinite(fresh).all()
    assert model.loss_ == model.closed_form_.loss
    assert model.info_.converged
    if regime == "linear":
        assert np.allclose(x @ model.components_.T, z)


def test_a_near_copy_lands_near_its_original():
    """Out of sample: 1e-3 away from a training row, the embedding is close to that row's."""
    x, _ = blobs(n=90)
    for estimator in ALL:
        model = estimator(n_components=2, n_neighbors=10).fit(x)
        near = model.transform(x[:10] + 1e-3)
        spread = np.abs(model.embedding_).max()
        assert np.abs(near - model.embedding_[:10]).max() < 0.3 * spread


def test_pipeline_clone_and_names():
    x, y = blobs()
    model = make_pipeline(
        StandardScaler(),
        VICRegEmbedding(n_components=2, n_neighbors=10),
        KNeighborsClassifier(3),
    )
    assert model.fit(x[:45], y[:45]).score(x[45:], y[45:]) > 0.8
    assert list(model[:-1].get_feature_names_out()) == ["vicregembedding0", "vicregembedding1"]
    copy = clone(model).set_params(vicregembedding__n_components=3).fit(x, y)
    assert len(copy[:-1].get_feature_names_out()) == 3
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again[:-1].transform(x), model[:-1].transform(x))
    frame = VICRegEmbedding(n_neighbors=10).set_output(transform="default").fit(x)
    assert frame.n_features_in_ == 4


def test_spectral_embedding_subspace(lab):
    """measure="degree" on the same affinity spans scikit-learn's SpectralEmbedding."""
    x, _ = blobs()
    affinity = lab.knn_weights(x, 25)
    reference = SpectralEmbedding(n_components=2, affinity="precomputed", random_state=0)
    ours = VICRegEmbedding(n_components=2, affinity="precomputed", measure="degree")
    # both drop nothing but the trivial vector, so the spans agree up to the sign and the scale
    assert lab.sine(reference.fit_transform(affinity), ours.fit_transform(affinity)) < 1e-6
    assert np.allclose(ours.transform(affinity[:3]), ours.embedding_[:3], atol=1e-8)
    assert np.allclose(ours.fit(sp.csr_array(affinity)).embedding_, ours.embedding_)


def test_isomap_and_kernel_pca(lab):
    x = np.random.default_rng(0).standard_normal((50, 3)) * [3, 1, 0.2]
    isomap = Isomap(n_neighbors=8, n_components=2).fit(x)
    h = np.eye(50) - 1 / 50
    target = -0.5 * h @ isomap.dist_matrix_**2 @ h
    z = SimCLREmbedding(affinity="precomputed").fit_transform((target + target.T) / 2)
    assert lab.sine(isomap.embedding_, z) < 1e-8
    assert np.allclose(np.linalg.norm(z, axis=0), np.linalg.norm(isomap.embedding_, axis=0))
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 4)
    pca = KernelPCA(n_components=2, kernel="precomputed").fit_transform(kernel)
    assert lab.sine(pca, SimCLREmbedding(affinity="precomputed").fit_transform(kernel)) < 1e-8


@pytest.mark.parametrize("estimator", [VICRegEmbedding, BarlowTwinsEmbedding])
def test_linear_discriminant_analysis(lab, estimator):
    """affinity="labels", linear: LDA's subspace, also with unbalanced classes."""
    x, _ = blobs(n=80)
    y = np.repeat([0, 1, 2], [40, 25, 15])
    x = x + np.eye(3, 4)[y]
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(x, y).scalings_[:, :2]
    model = estimator(n_components=2, affinity="labels", regime="linear").fit(x, y)
    assert lab.sine(reference, model.components_.T) < 1e-7
    named = estimator(n_components=2, affinity="labels", regime="linear")
    named.fit(x, np.array(["a", "b", "c"])[y])
    assert lab.sine(named.components_.T, model.components_.T) < 1e-7


def test_errors():
    x, y = blobs()
    with pytest.raises(ValueError, match=r"affinity must be one of .* got 'rbf'"):
        VICRegEmbedding(affinity="rbf").fit(x)
    with pytest.raises(ValueError, match=r"regime must be one of .* got 'deep'"):
        VICRegEmbedding(regime="deep").fit(x)
    with pytest.raises(ValueError, match=r"regime must be 'auto' or 'nonparametric', got 'linear'"):
        VICRegEmbedding(affinity="precomputed", regime="linear").fit(np.eye(5))
    with pytest.raises(ValueError, match=r"square affinity, got shape \(60, 4\)"):
        VICRegEmbedding(affinity="precomputed").fit(x)
    with pytest.raises(ValueError, match=r"symmetric affinity"):
        VICRegEmbedding(affinity="precomputed").fit(np.triu(np.ones((5, 5))))
    with pytest.raises(ValueError, match=r"n_components must be between 1 and n_samples=60"):
        VICRegEmbedding(n_components=61).fit(x)
    with pytest.raises(ValueError, match=r"n_neighbors must be at least 1, got 0"):
        VICRegEmbedding(n_neighbors=0).fit(x)
    with pytest.raises(ValueError, match=r"requires y"):
        VICRegEmbedding(affinity="labels").fit(x)
    with pytest.raises(ValueError, match=r"one label per row of X: 60, got 59"):
        VICRegEmbedding(affinity="labels").fit(x, y[:-1])
    with pytest.raises(ValueError, match=r"y must not hold NaN, got 60"):
        VICRegEmbedding(affinity="labels").fit(x, np.full(60, np.nan))
    with pytest.raises(TypeError, match=r"n_components must be an integer, got float"):
        VICRegEmbedding(n_components=2.5).fit(x)
    with pytest.raises(TypeError, match=r"n_components must be an integer, got bool"):
        VICRegEmbedding(n_components=True).fit(x)
    with pytest.raises(TypeError, match=r"n_neighbors must be an integer, got str"):
        VICRegEmbedding(n_neighbors="a").fit(x)
    for estimator in ALL:
        with pytest.raises(TypeError, match=r"tol must be a number, got str"):
            estimator(tol="a", regime="linear").fit(x)
    labelled = VICRegEmbedding(affinity="labels", regime="nonparametric").fit(x, y)
    assert np.array_equal(labelled.transform(x[:3]), labelled.embedding_[:3])
    with pytest.raises(ValueError, match=r"2 row\(s\) are not training rows"):
        labelled.transform(x[:2] + 1)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("power", [700, -700])
def test_any_unit_of_the_samples_will_do(estimator, power):
    """Their squared distances overflow or vanish, but the neighbours are the same."""
    x, _ = blobs()
    x, new = x[:50], x[50:]
    plain, scaled = (estimator(n_neighbors=8).fit(x * unit) for unit in (1.0, 2.0**power))
    assert np.array_equal(plain.embedding_, scaled.embedding_)
    assert np.array_equal(plain.transform(new), scaled.transform(new * 2.0**power))
    with pytest.raises(ValueError, match=r"X must be at most .* squares overflow, got 1e\+200"):
        plain.transform(np.full((1, 4), 1e200))
    for regime in ("linear", "kernel"):
        with pytest.raises(ValueError, match=r"X must be at most .* squares overflow, got .*e\+2"):
            estimator(regime=regime).fit(x * 1e200)


def test_settings_that_nothing_reads_are_told_and_ignored():
    x, y = blobs()
    plain = VICRegEmbedding().fit(x)
    with pytest.warns(UserWarning, match=r"ridge=5 is ignored with regime='nonparametric'") as told:
        assert VICRegEmbedding(ridge=5).fit(x).loss_ == plain.loss_
    assert told[0].filename == __file__
    for name, value, shown in (("gamma", 0.5, "0.5"), ("kernel", "poly", "'poly'")):
        for estimator in ALL:
            for regime in ("nonparametric", "linear"):
                message = f"{name}={shown} is ignored with regime='{regime}'; .* regime='kernel'"
                with pytest.warns(UserWarning, match=message):
                    estimator(regime=regime, **{name: value}).fit(x)
    with pytest.warns(UserWarning, match=r"n_neighbors=9 is ignored with affinity='labels'"):
        SimCLREmbedding(affinity="labels", n_neighbors=9).fit(x, y)
    VICRegEmbedding(ridge=0, gamma=None, kernel="rbf").fit(x)
    VICRegEmbedding(regime="linear", ridge=1e-3).fit(x)


@pytest.mark.filterwarnings("ignore:fit. .* is ignored:UserWarning")
def test_a_grid_may_cross_settings_with_regimes_that_do_not_read_them():
    x, y = blobs()
    model = Pipeline([("embed", VICRegEmbedding()), ("vote", KNeighborsClassifier(3))])
    grid = [
        {"embed__regime": ["nonparametric", "linear", "kernel"], "embed__ridge": [0.0, 1e-2]},
        {"embed__affinity": ["labels", "nearest_neighbors"], "embed__n_neighbors": [5, 15]},
    ]
    search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(x, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.8


def test_the_automatic_regime_is_linear_with_labels():
    """New rows have no labels, and the linear map places them all the same."""
    x, y = blobs()
    fitted = VICRegEmbedding(affinity="labels").fit(x[:45], y[:45])
    assert fitted.regime_ == "linear"
    assert np.allclose(fitted.transform(x[45:]), x[45:] @ fitted.components_.T)
    assert VICRegEmbedding().fit(x).regime_ == "nonparametric"
    asked = VICRegEmbedding(affinity="labels", regime="linear").fit(x[:45], y[:45])
    assert np.array_equal(fitted.embedding_, asked.embedding_)


@pytest.mark.parametrize("regime", ["nonparametric", "linear", "kernel"])
@pytest.mark.parametrize("estimator", ALL)
def test_float32_rows_give_float32_embeddings(estimator, regime):
    x, _ = blobs()
    x = x.astype(np.float32)
    single = estimator(regime=regime).fit(x)
    double = estimator(regime=regime).fit(x.astype(np.float64))
    for out in (single.embedding_, single.fit_transform(x), single.transform(x + 1)):
        assert out.dtype == np.float32
    assert np.array_equal(single.embedding_, double.embedding_.astype(np.float32))
    assert np.array_equal(single.transform(x), single.embedding_)
    assert get_tags(single).transformer_tags.preserves_dtype == ["float64", "float32"]


def test_output_as_a_frame():
    pandas = pytest.importorskip("pandas")
    x, _ = blobs()
    model = SimCLREmbedding(n_components=3).set_output(transform="pandas")
    frame = model.fit_transform(pandas.DataFrame(x, columns=list("abcd")))
    assert frame.columns.tolist() == [f"simclrembedding{i}" for i in range(3)]
    assert np.array_equal(frame.to_numpy(), model.embedding_)


def test_jobs_and_progress(capsys):
    x, _ = blobs()
    plain = VICRegEmbedding().fit(x)
    assert capsys.readouterr() == ("", "")
    for regime in ("nonparametric", "kernel"):
        two = VICRegEmbedding(regime=regime, n_jobs=2).fit(x)
        assert two.loss_ == pytest.approx(VICRegEmbedding(regime=regime).fit(x).loss_)
    capsys.readouterr()
    VICRegEmbedding(verbose=True).fit(x)
    printed = capsys.readouterr()
    assert f"VICRegEmbedding: ClosedForm(embedding (60, 2), loss {plain.loss_:.6g}" in printed.out
    assert "\r" not in printed.err


def test_more_neighbours_than_rows_are_told():
    x, _ = blobs(n=12)
    with pytest.warns(UserWarning, match=r"n_neighbors must be below n_samples=12, got 15") as told:
        fitted = VICRegEmbedding().fit(x)
    assert told[0].filename == __file__
    assert fitted.loss_ == VICRegEmbedding(n_neighbors=11).fit(x).loss_


def test_kernel_settings_are_checked_here():
    x, _ = blobs()
    for gamma in (-1, 0, np.nan):
        with pytest.raises(ValueError, match=rf"gamma must be positive, got {gamma}"):
            VICRegEmbedding(regime="kernel", gamma=gamma).fit(x)
    with pytest.raises(TypeError, match=r"gamma must be a real number, got str"):
        BarlowTwinsEmbedding(regime="kernel", gamma="scale").fit(x)
    for kernel in ("gauss", 3, ["rbf"]):
        with pytest.raises(ValueError, match=r"kernel must be a function or in \('additive_chi2'"):
            SimCLREmbedding(regime="kernel", kernel=kernel).fit(x)
    with pytest.raises(ValueError, match=r"gamma must be None with kernel='linear', .* got 1"):
        SimCLREmbedding(regime="kernel", kernel="linear", gamma=1).fit(x)
    own = VICRegEmbedding(regime="kernel", kernel=lambda a, b: np.exp(-((a - b) ** 2).sum() / 4))
    named = VICRegEmbedding(regime="kernel", gamma=np.float32(0.25)).fit(x)
    assert np.allclose(own.fit(x).eigenvalues_, named.eigenvalues_)


def test_labels_and_seeds_in_other_types():
    x, y = blobs()
    y = np.where(np.arange(60) < 5, -1, y)  # unlabelled rows
    fits = [
        VICRegEmbedding(affinity="labels", random_state=state).fit(x, labels)
        for state in (0, None, np.random.RandomState(0))
        for labels in (y, y.astype(float))
    ]
    for fit in fits[1:]:
        assert fit.loss_ == pytest.approx(fits[0].loss_)


@pytest.mark.parametrize(
    "labels",
    [
        lambda y: y.astype(object),
        lambda y: y.astype(str),
        lambda y: y.astype(bytes),
        lambda y: y.astype(float),
        lambda y: y.tolist(),
        lambda y: torch.from_numpy(y),
        lambda y: np.where(y < 0, -1, np.array(["cat", "dog", ""])[y].astype(object)),
        lambda y: np.where(y < 0, "-1", np.array(["cat", "dog", ""])[y]),
    ],
)
def test_a_negative_integer_means_unlabelled_in_every_type(labels):
    x, _ = blobs(n=30)
    y = np.arange(30) % 3 - 1
    fit = VICRegEmbedding(affinity="labels").fit(x, labels(y))
    assert fit.info_.isolated == 10
    assert fit.loss_ == pytest.approx(VICRegEmbedding(affinity="labels").fit(x, y).loss_)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.linspace(0, 1, 30), r"y must hold classes .* continuous value 0.03\S* at index 1"),
        (np.linspace(0, 1, 30).astype(str), r"y must hold classes .* continuous value"),
        (np.linspace(0, 1, 30).astype(object), r"y must hold classes .* continuous value"),
        (np.array([0, None] * 15), r"y must not hold None or NaN, got 15; use -1"),
        (np.array(["a", np.nan] * 15, dtype=object), r"y must not hold None or NaN, got 15"),
        (np.array(["a", 1] * 15, dtype=object), r"y must hold integers or names, not both"),
        (np.array(["1", "01", "2"] * 10), r"y must write a number in one way, got '1' and '01'"),
        (np.arange(30) * 1j, r"y must hold integers or names, got dtype complex128"),
        (np.full(30, np.inf), r"y must hold classes .* continuous value inf"),
    ],
)
def test_what_is_no_class_is_refused(y, message):
    x, _ = blobs(n=30)
    with pytest.raises(ValueError, match=message):
        VICRegEmbedding(affinity="labels").fit(x, y)


def test_negative_affinities_where_degrees_divide():
    """Their root would be needed; the other closed forms take a signed affinity."""
    a = np.ones((20, 20)) - np.eye(20)
    a[0, 1] = a[1, 0] = -0.5
    for model in (
        VICRegEmbedding(affinity="precomputed", measure="degree"),
        BarlowTwinsEmbedding(affinity="precomputed"),
    ):
        assert get_tags(model).input_tags.positive_only
        for matrix in (a, sp.csr_array(a)):
            with pytest.raises(ValueError, match=r"Negative values in data"):
                model.fit(matrix)
    for model in (VICRegEmbedding(affinity="precomputed"), BarlowTwinsEmbedding()):
        assert not get_tags(model).input_tags.positive_only
    assert np.isfinite(VICRegEmbedding(affinity="precomputed").fit(a).embedding_).all()


def test_without_scikit_learn(monkeypatch):
    """The extra is missing: the message says how to install it; the closed forms still import."""
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    for name in ("estimators", "_estimator"):
        monkeypatch.delitem(sys.modules, f"sslspec_fast.spectral.{name}")
    with pytest.raises(ImportError, match=r"pip install 'sslspec-fast\[sklearn\]'"):
        _ = spectral.VICRegEmbedding
    with pytest.raises(AttributeError, match=r"no attribute 'Isomap'"):
        _ = spectral.Isomap
