"""The rules, in the order in which a report lists them."""

from pilot_secure.audit.rule import Rule
from pilot_secure.audit.rules.accounting import B01Bytes, D01Ledger
from pilot_secure.audit.rules.agreement import K03OneRoster, S01Threshold, S03Signatures, S04NotDead
from pilot_secure.audit.rules.chain import T01Chain
from pilot_secure.audit.rules.distances import H01Ckks, H02Release
from pilot_secure.audit.rules.frames import T02Signatures, T03Schema, T06Encoding
from pilot_secure.audit.rules.keys import K01FreshKeys, K02UsableKeys
from pilot_secure.audit.rules.leakage import L01Leverage, L02Differencing
from pilot_secure.audit.rules.masks import M01Derivation, M02Headroom, M03Uniform, M04Sums
from pilot_secure.audit.rules.order import T04Order, T05Session
from pilot_secure.audit.rules.shares import S02Disjoint, S05Minimum, S06Commitments

ALL: tuple[type[Rule], ...] = (
    T01Chain,
    T02Signatures,
    T03Schema,
    T04Order,
    T05Session,
    T06Encoding,
    K01FreshKeys,
    K02UsableKeys,
    K03OneRoster,
    S01Threshold,
    S02Disjoint,
    S03Signatures,
    S04NotDead,
    S05Minimum,
    S06Commitments,
    M01Derivation,
    M02Headroom,
    M03Uniform,
    M04Sums,
    L01Leverage,
    L02Differencing,
    H01Ckks,
    H02Release,
    D01Ledger,
    B01Bytes,
)
