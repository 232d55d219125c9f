"""Every loss as a function: the fused form by default, the plain-torch reference on request.

Two-view losses take two (n, d) tensors of paired rows, graph losses one (n, d) tensor and a
`PairGraph`, `sigreg` and `lejepa` any number of views. All return a scalar unless
``reduction="none"``; see each function for its formula.
"""

from .losses._column_bias import center_bias, column_mean, sinkhorn_bias
from .losses.barlow_twins import barlow_twins
from .losses.capi import capi
from .losses.clip import clip
from .losses.dcl import dcl, negative_mises_fisher_weights
from .losses.dino import dino
from .losses.dirichlet_energy import dirichlet_energy
from .losses.falcon import falcon
from .losses.gram_anchor import gram_anchor
from .losses.graph_barlow_twins import graph_barlow_twins
from .losses.graph_covariance import graph_covariance
from .losses.graph_info_nce import graph_info_nce
from .losses.graph_siglip import graph_siglip
from .losses.graph_spectral_contrastive import graph_spectral_contrastive
from .losses.graph_vicreg import graph_vicreg
from .losses.ibot import ibot
from .losses.info_nce import info_nce
from .losses.koleo import koleo
from .losses.lejepa import lejepa
from .losses.ls_simclr import ls_simclr
from .losses.matryoshka import matryoshka
from .losses.moco import moco
from .losses.msn import msn
from .losses.negative_cosine import negative_cosine
from .losses.nt_xent import nt_xent
from .losses.proto_nce import concentration, proto_nce
from .losses.prototype_cross_entropy import prototype_cross_entropy
from .losses.ressl import ressl
from .losses.siglip import siglip
from .losses.sigreg import sigreg
from .losses.spectral_contrastive import spectral_contrastive
from .losses.sup_con import sup_con
from .losses.swav import swav
from .losses.vicreg import vicreg
from .losses.x_clr import x_clr

__all__ = [
    "barlow_twins",
    "capi",
    "center_bias",
    "clip",
    "column_mean",
    "concentration",
    "dcl",
    "dino",
    "dirichlet_energy",
    "falcon",
    "gram_anchor",
    "graph_barlow_twins",
    "graph_covariance",
    "graph_info_nce",
    "graph_siglip",
    "graph_spectral_contrastive",
    "graph_vicreg",
    "ibot",
    "info_nce",
    "koleo",
    "lejepa",
    "ls_simclr",
    "matryoshka",
    "moco",
    "msn",
    "negative_cosine",
    "negative_mises_fisher_weights",
    "nt_xent",
    "proto_nce",
    "prototype_cross_entropy",
    "ressl",
    "siglip",
    "sigreg",
    "sinkhorn_bias",
    "spectral_contrastive",
    "sup_con",
    "swav",
    "vicreg",
    "x_clr",
]
