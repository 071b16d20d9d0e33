"""keras.applications' weights: names, files and digests of Keras 3.15, applications/resnet.py.

Accuracies: the README of github.com/keras-team/keras-applications, and at 224 pixels for the V2
networks, whose README has 299, that of github.com/qubvel/classification_models.
"""

from __future__ import annotations

import dataclasses

from resnet_keras.architectures import ConvRole
from resnet_keras.records import Recipe, Record
from resnet_keras.specs import ResNetSpec
from resnet_keras.weights.classes import imagenet_names
from resnet_keras.weights.entries import PublishedFile, RegistryEntry, Score

_FOLDER = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
_EPSILON = 1.001e-5
_EVERYWHERE: tuple[ConvRole, ...] = ("stem", "shortcut", "inner", "last")
_V1 = ResNetSpec(50, "v1", bn_epsilon=_EPSILON, conv_bias=_EVERYWHERE)
_V2 = ResNetSpec(
    50,
    "v2",
    pool_padding="zeros",
    bn_epsilon=_EPSILON,
    conv_bias=("stem", "shortcut", "last"),
    stride_block="last",
)
_NEXT = ResNetSpec(50, "v1.5", bn_epsilon=_EPSILON, groups=32, width_per_group=4)
_CAFFE = Recipe(mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0))
_TF = Recipe(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
_TORCH = Recipe()


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network of keras.applications: its digests are md5, with head and without."""

    name: str
    spec: ResNetSpec
    recipe: Recipe
    parameters: int
    digests: tuple[str, str]
    scores: tuple[Score, ...]
    source: str
    licence: str = "not stated"
    bgr: bool = False

    def entries(self) -> tuple[RegistryEntry, RegistryEntry]:
        return self._entry(), self._headless()

    def _entry(self) -> RegistryEntry:
        return RegistryEntry(
            record=Record(
                spec=self.spec,
                recipe=self.recipe,
                class_names=imagenet_names(),
                name=f"{self.name}.keras_applications",
                source=self.source,
                licence=self.licence,
            ),
            family="keras.applications",
            files=(self._file("", self.digests[0]),),
            parameters=self.parameters,
            scores=self.scores,
            bgr=self.bgr,
            # Caffe's pictures, which are also its BGR ones, were resized by OpenCV.
            antialias=not self.bgr,
        )

    def _headless(self) -> RegistryEntry:
        entry = self._entry()
        name = f"{entry.name}_notop"
        return dataclasses.replace(
            entry,
            record=dataclasses.replace(entry.record, name=name, class_names=()),
            files=(self._file("_notop", self.digests[1]),),
            parameters=self.parameters - (2048 + 1) * 1000,
            num_classes=None,
            scores=(),
        )

    def _file(self, ending: str, md5: str) -> PublishedFile:
        name = f"{self.name}_weights_tf_dim_ordering_tf_kernels{ending}.h5"
        return PublishedFile(f"{_FOLDER}{name}", "keras_applications", md5=md5)


def _score(top1: float, top5: float, size: int = 224) -> Score:
    """Returns a score of the README, which says "single center crop" and not how large a one."""
    return Score(top1, top5, size, None)


def _v1(
    depth: int, parameters: int, digests: tuple[str, str], *, score: Score, licence: str
) -> _Network:
    return _Network(
        f"resnet{depth}",
        dataclasses.replace(_V1, depth=depth),
        _CAFFE,
        parameters,
        digests,
        (score,),
        "keras.applications, ported from the Caffe weights of He et al. (2015)",
        licence,
        bgr=True,
    )


def _v2(
    depth: int, parameters: int, digests: tuple[str, str], *, scores: tuple[Score, Score]
) -> _Network:
    return _Network(
        f"resnet{depth}v2",
        dataclasses.replace(_V2, depth=depth),
        _TF,
        parameters,
        digests,
        scores,
        "keras.applications, ported from fb.resnet.torch",
    )


def _next(depth: int, parameters: int, digests: tuple[str, str], *, score: Score) -> _Network:
    return _Network(
        f"resnext{depth}",
        dataclasses.replace(_NEXT, depth=depth),
        _TORCH,
        parameters,
        digests,
        (score,),
        "keras.applications, ported from github.com/facebookresearch/ResNeXt",
    )


_NETWORKS = (
    _v1(
        50,
        25_583_592,
        ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
        score=_score(74.928, 92.060),
        licence="MIT",
    ),
    _v1(
        101,
        44_601_832,
        ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
        score=_score(76.420, 92.786),
        licence="not stated",
    ),
    _v1(
        152,
        60_268_520,
        ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
        score=_score(76.604, 93.118),
        licence="not stated",
    ),
    _v2(
        50,
        25_568_360,
        ("3ef43a0b657b3be2300d5770ece849e0", "fac2f116257151a9d068a22e544a4917"),
        scores=(Score(69.73, 89.31, 224, 0.875), _score(75.960, 93.034, 299)),
    ),
    _v2(
        101,
        44_577_896,
        ("6343647c601c52e1368623803854d971", "c0ed64b8031c3730f411d2eb4eea35b5"),
        scores=(Score(71.93, 90.41, 224, 0.875), _score(77.234, 93.816, 299)),
    ),
    _v2(
        152,
        60_236_904,
        ("a49b44d1979771252814e80f8ec446f9", "ed17cf2e0169df9d443503ef94b23b33"),
        scores=(Score(72.29, 90.61, 224, 0.875), _score(78.032, 94.162, 299)),
    ),
    _next(
        50,
        25_028_904,
        ("67a5b30d522ed92f75a1f16eef299d1a", "62527c363bdd9ec598bed41947b379fc"),
        score=_score(77.740, 93.810),
    ),
    _next(
        101,
        44_177_704,
        ("34fb605428fcc7aa4d62f44404c11509", "0f678c91647380debd923963594981b3"),
        score=_score(78.730, 94.294),
    ),
)
ENTRIES = tuple(entry for network in _NETWORKS for entry in network.entries())
