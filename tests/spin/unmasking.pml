/*
 * The unmasking phase against a server that cheats in the ways that are switched on:
 *
 *   LIE     it tells the clients of one session of different survivor sets;
 *   SPLIT   in the first attempt it shows some clients roster A and the others roster B;
 *   SECOND  it runs a second attempt, before, after or beside the first, with N2 clients, FRESH of
 *           them not in the first cohort, and threshold T2.
 *
 * The first attempt has N clients and threshold T. C colluders are in every session; they sign and
 * answer everything. Client 0 is honest and in both cohorts. A sum has any number of contributors;
 * it needs MINIMUM survivors. The clients' counter-measures, each of which can be taken out:
 *
 *   CONFIRM    no answer before threshold-many signatures carry the client's own statement;
 *   PINNED     the threshold is that of the parameters, not of the roster that was shown;
 *   ANSWERED   one answer over all attempts on the same updates;
 *   JOINED     no second attempt with another cohort or other parameters than the first.
 *
 * A session is a roster of an attempt: 0 and 1 are A and B of the first, 2 is the second attempt.
 * A client is in one roster of an attempt, since it computes the session id from what it was shown,
 * and is told one set of dead clients there: of its session, not itself, at most size - threshold.
 * Only the clients below SUSPECTS are ever declared dead. Its answer is a mask-key share of each
 * dead client and, if enough of the sum's contributors survive, a seed share of each other one.
 * Signing does not depend on answers, so all is told first; not to answer helps nobody.
 *
 * A sum of a session opens if of each honest contributor one secret has its threshold of shares.
 * Never may both secrets of one client open, nor a sum with one honest term, nor two rosters of an
 * attempt, nor two sums with the same client's update.
 */
#ifndef LIE
#define LIE 1
#endif
#ifndef SPLIT
#define SPLIT 0
#endif
#ifndef SECOND
#define SECOND 0
#endif
#ifndef CONFIRM
#define CONFIRM 1
#endif
#ifndef PINNED
#define PINNED 1
#endif
#ifndef ANSWERED
#define ANSWERED 1
#endif
#ifndef JOINED
#define JOINED 1
#endif
#ifndef N
#define N 4
#endif
#ifndef T
#define T 3
#endif
#ifndef C
#define C 1
#endif
#ifndef MINIMUM
#define MINIMUM (C + 2)
#endif
#ifndef N2
#define N2 N
#endif
#ifndef T2
#define T2 T
#endif
#ifndef FRESH
#define FRESH 0
#endif
#ifndef SUSPECTS
#define SUSPECTS HONEST
#endif

#define COHORT (N - C)            /* honest clients of the first cohort: 0 .. COHORT - 1 */
#define HONEST (COHORT + FRESH)   /* of both cohorts; the second is client 0 and the last ones */
#define IN_SECOND(j) (j == 0 || j + N2 - C > HONEST)
#define SAME (N2 == N && T2 == T && FRESH == 0)
#define ALIKE (SUSPECTS <= 1)     /* honest clients but the first are: one order is enough */
#define UNTOLD 255

#define BIT(j) (1 << (j))
#define HAS(set, j) (((set) >> (j)) & 1)
#define COUNT(set) (HAS(set, 0) + HAS(set, 1) + HAS(set, 2) + HAS(set, 3) + HAS(set, 4) + HAS(set, 5))
#define ROSTER_THRESHOLD(s) ((COUNT(members[s]) + 2 * C) / 2 + 1)
#define THRESHOLD(s) (s == 2 -> T2 : (PINNED -> T : ROSTER_THRESHOLD(s)))
#define SURVIVORS(s, set) (COUNT(members[s] & ~(set)) + C)
#define TOLD(s, j) dead[s * HONEST + j]
#define MAY_TELL(s, set) \
    (((set) & ~members[s]) == 0 && SURVIVORS(s, set) >= THRESHOLD(s))
#define PLACE(j) (HAS(members[0], j) + 2 * HAS(members[1], j) + 4 * HAS(members[2], j))
#define SUM (BIT(contributors) - 1)

byte members[3];            /* honest clients of each session, as a bit set */
byte dead[3 * HONEST];      /* whom each client was told to be dead, as a bit set, or UNTOLD */
byte answered[HONEST];      /* sessions in which it answered, as a bit set */
byte contributors;          /* honest ones of the sum: 0 .. contributors - 1 */

inline any(set) {
    set = 0;
    do
    :: set < BIT(SUSPECTS) - 1 -> set++
    :: break
    od
}

inline join(j) {
    if
    :: j < COHORT -> members[0] = members[0] | BIT(j)
    :: SPLIT && j < COHORT -> members[1] = members[1] | BIT(j)
    :: skip
    fi;
    if
    :: SECOND && IN_SECOND(j) &&
       (SAME || !JOINED || !HAS(members[0] | members[1], j)) ->
        members[2] = members[2] | BIT(j)
    :: skip
    fi
}

/* how many signatures carry what client j was told in session s */
inline confirmations(s, j, count) {
    count = C;
    for (other : 0 .. HONEST - 1) {
        count = count + (HAS(members[s], other) && TOLD(s, other) == TOLD(s, j) -> 1 : 0)
    }
}

/* sessions in which client j may answer, as a bit set */
inline allowed(j, sessions) {
    sessions = 0;
    for (s : 0 .. 2) {
        if
        :: HAS(members[s], j) && TOLD(s, j) != UNTOLD ->
            confirmations(s, j, shares);
            sessions = sessions | (!CONFIRM || shares >= THRESHOLD(s) -> BIT(s) : 0)
        :: else
        fi
    }
}

/* the honest contributors whose seed opens in session s; sets `whole` if its sum opens */
inline open(s, seeds, whole) {
    seeds = 0;
    whole = 1;
    for (owner : 0 .. contributors - 1) {
        if
        :: HAS(members[s], owner) ->
            shares = C;
            keys = C;
            for (other : 0 .. HONEST - 1) {
                if
                :: HAS(answered[other], s) && HAS(TOLD(s, other), owner) -> keys++
                :: HAS(answered[other], s) && !HAS(TOLD(s, other), owner) &&
                   SURVIVORS(s, TOLD(s, other) | ~SUM) >= MINIMUM -> shares++
                :: else
                fi
            }
            assert(shares < THRESHOLD(s) || keys < THRESHOLD(s));
            if
            :: shares >= THRESHOLD(s) -> seeds = seeds | BIT(owner)
            :: shares < THRESHOLD(s) && keys < THRESHOLD(s) -> whole = 0
            :: else
            fi
        :: else
        fi
    }
    if
    :: whole && seeds -> assert(COUNT(seeds) > 1)
    :: else -> whole = 0; seeds = 0
    fi
}

active proctype server() {
    byte j, s, set, shares, keys, other, owner, opened, first;
    bit whole, whole_a;

    for (j : 0 .. HONEST - 1) {
        atomic {
            join(j);
            if
            :: ALIKE && j > 1 && PLACE(j) < PLACE(j - 1) -> goto done
            :: else
            fi
        }
    }

    for (s : 0 .. 2) {
        if
        :: !LIE && members[s] ->
            atomic {
                any(set);
                if
                :: MAY_TELL(s, set)
                :: else -> goto done
                fi
            }
        :: else
        fi;
        for (j : 0 .. HONEST - 1) {
            atomic {
                if
                :: !HAS(members[s], j) -> TOLD(s, j) = UNTOLD
                :: HAS(members[s], j) && !LIE ->
                    TOLD(s, j) = (HAS(set, j) -> UNTOLD : set)
                :: HAS(members[s], j) && LIE ->
                    any(set);
                    if
                    :: MAY_TELL(s, set) && !HAS(set, j) -> TOLD(s, j) = set
                    :: else -> goto done
                    fi;
                    set = 0
                fi
            }
        }
    }

    atomic {
        for (j : 0 .. HONEST - 1) {
            skip;
            d_step { allowed(j, set); skip }
            if
            :: !ANSWERED || COUNT(set) <= 1 -> answered[j] = set
            :: ANSWERED && COUNT(set) == 2 -> answered[j] = set & ~4
            :: ANSWERED && COUNT(set) == 2 -> answered[j] = set & 4
            fi
        }
        contributors = HONEST;
        do
        :: !ALIKE && contributors > 1 -> contributors--
        :: break
        od;
        d_step {
            open(0, first, whole_a);
            open(1, opened, whole);
            assert(!whole_a || !whole);
            first = first | opened;
            open(2, opened, whole);
            assert((first & opened) == 0);
            skip
        }
    }
done:
    skip
}
