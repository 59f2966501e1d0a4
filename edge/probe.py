"""A model of two numbers, int8, to see whether a runtime really runs here: y = (x0, -x1).

The bytes are what our own writers make of it (federated/compile), deflated, in base 85; a test makes them again.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import BundleError
from edge.scoring.runtimes import open_runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

_ONNX = (
    "c-n<iO;5r=6ztXln}=vAMz8^+c-"
    "xalV>mS?CXE+v%B3l=ktR^=mkI}!c;RRG7yO0VZd={bqD?m4oypF;_d3N`DUIfjbaDBKp${d?eh7T1vX|kF%qazk4@>IKl}fyK)W"
    "d#Y+P<}<H<nFJ*GTa0UKWQtNUv-"
    "c#qoaZs7F`SDbgJ~U3rs&HG=)AxuEX3@kFirN#xPU0<o8p1(|0pgQ>?k;|!m7CsmNlXUl5|A4r53NcD!6>4kOF`D0v#%tNe(Du<}"
    ";Z52f9fBv`dGegLB2E2&^$-"
    "xU|>i#vI&5U25D@6dQLD_dr+tXSoQXT+z2X@mv>nN3uKVoul)Mmf1k9;=5s#ESS<?=l6!`{?pZbC7UA5Ic!(!@wc8lO8|TD=K9(g"
    "=wijmw~pzDNg)SPbFKQ0daEAgst)NFuE$U^<pW)Qc8rGlhb{>7pP+4suz`Mn%U$@{m*JkdKaz*YB%~Xps}9kc$#0(qcVl#+fvIz?"
    "$Yq8+JWtC;z<CfI3D>4Jt}$X!@fGgwq&yAenw4tw|ur^>3DpR@4"
)
_TFLITE = (
    "c-oCqy-or_5Z*l(JaQ{u;uRDY7RFdmm`GtkVPUK+X{-"
    "n;kxLX50YhS<#D<DkSX){85I%^d58w;v`pxc~ERC?qcRRZ~^Ud#tLWtVo(QexqvjI5<?to2T3CIDbok4TR=MQ||10l+RJ0GyF0=~"
    "eJ$Brjjc@4Hz2q9iI_5$mXsBsfn(Y<xueOKa>Sg|NdkYc=&eUb0WKnYj}c9`$7k+#V~a=g-"
    "U+4!mm<{3NXMzMY3d<Hy0Nds@p^Mcr&U$GUlFUq6zZH&)L{(896%o(#D%uT?u<emI=`n{`uZ#JLE%ZJL7`6IhA`%@f$#zk`L$HiF"
    "Tno}L;`M+okn_VPWgKfz1O4g@E^5{WSCy=w+a{mJ5aYcVz^^>%5BVL)$)1O&%H+~%L5eDE^b`JdI>aphax59np{uLDSWLTNTaNA7"
    "JTU6GvnIDG=WR*Y_Azyi}FX0~P`!OZ9M$;a}?%`Ooyv;R}-"
    "kc?ziLkl2nNGN;`wRAJ8A#h0mHM^N_K%qUH~;m`O_cDe>wGUVpSjGZwNkbozkAVq@c"
)
_TEXT: Mapping[str, str] = {"onnx": _ONNX, "litert": _TFLITE, "tflite": _TFLITE}
_STEP = 0.02  # of int8 over [-1, 1], with room for rounding


def model_bytes(runtime: str) -> bytes:
    """The model as a runtime loads it."""
    return zlib.decompress(base64.b85decode(_TEXT[runtime]))


def run_probe(runtime: str) -> dict[str, str]:
    """Run the model; returns what ran it, as `Runtime.describe` tells it.

    Raises:
        MissingExtra: the runtime is not installed.
        UsageError: it cannot be imported.
        BundleError: it refuses the model, or computes something else.
    """
    network = open_runtime(runtime, model_bytes(runtime))
    y = network.run(np.array([[0.5, 0.25], [-1.0, 1.0]], np.float32))
    if not np.allclose(y, [[0.5, -0.25], [-1.0, -1.0]], atol=_STEP):
        raise BundleError(f"{runtime}: y = (x0, -x1) expected, {y.tolist()} computed")
    return network.describe()
