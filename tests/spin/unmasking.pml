/*
 * The unmasking phase against a server that lies to every client as it likes.
 *
 * N clients, C of them colluding with the server, threshold T. The updates of one victim (honest
 * client 0) are at stake in two attempts; in the first the server may also split the roster in two
 * (SPLIT). A statement is (attempt, roster, whether the victim survived): 0..3 are the first
 * attempt's roster A alive, A dead, B alive, B dead; 4 and 5 the second attempt's alive and dead.
 *
 * An honest client joins one roster per attempt (its session id is its own computation) and signs
 * one statement per attempt; the victim signs none that declares itself dead. It answers an
 * unmasking if at least T signatures carry its own statement, and with GUARD at most once over
 * both attempts. Colluders sign everything and answer everything. Signing does not depend on
 * answers, so all signatures may come first; honest clients other than the victim are alike, so
 * only choices in ascending order are searched.
 *
 * A statement opens when T shares are there. Never may two open: the same roster's alive and dead
 * are both shares of the victim, two attempts or two rosters are two sums over the same updates.
 */
#ifndef N
#define N 4
#endif
#ifndef T
#define T 3
#endif
#ifndef C
#define C 1
#endif
#ifndef GUARD
#define GUARD 1
#endif
#ifndef SPLIT
#define SPLIT 1
#endif
#define H (N - C)
#define NONE 9

byte first[H];      /* statement signed in the first attempt, or NONE */
byte second[H];
byte signatures[6];
byte shares[6];

#define SIGN(signed, statement) \
    atomic { signed[j] = statement; signatures[statement]++ }
#define CONFIRMED(statement) (statement != NONE && signatures[statement] + C >= T)

active proctype server() {
    byte j = 0;
    byte opened = 0;
    byte k = 0;
    do
    :: j < H ->
        if
        :: first[j] = NONE
        :: SIGN(first, 0)
        :: j != 0 -> SIGN(first, 1)
        :: SPLIT -> SIGN(first, 2)
        :: SPLIT && j != 0 -> SIGN(first, 3)
        fi;
        if
        :: second[j] = NONE
        :: SIGN(second, 4)
        :: j != 0 -> SIGN(second, 5)
        fi;
        if
        :: j > 1 && 16 * first[j] + second[j] < 16 * first[j - 1] + second[j - 1] -> goto done
        :: else -> j++
        fi
    :: else -> break
    od;
    j = 0;
    do
    :: j < H ->
        if
        :: skip
        :: CONFIRMED(first[j]) -> shares[first[j]]++
        :: CONFIRMED(second[j]) -> shares[second[j]]++
        :: !GUARD && CONFIRMED(first[j]) && CONFIRMED(second[j]) ->
            shares[first[j]]++;
            shares[second[j]]++
        fi;
        j++
    :: else -> break
    od;
    do
    :: k < 6 ->
        if
        :: shares[k] + C >= T && shares[k] > 0 -> opened++
        :: else -> skip
        fi;
        k++
    :: else -> break
    od;
    assert(opened <= 1);
done:
    skip
}
