"""Every bound of the system, named, with its unit and its reason.

A decoder compares against these before it builds an object; a queue, buffer or wait without a
bound here is a bug. Values are constants: what an operator may tune stands in the server's config.
"""

from typing import Final

KiB: Final = 1024
MiB: Final = 1024 * KiB
GiB: Final = 1024 * MiB

# --- tensors -------------------------------------------------------------------------------------
RANK_MAX: Final = 32  # dims; numpy's own bound is 64, torch's iterators stop at 64.
NUMEL_MAX: Final = 2**62  # elements; products are taken in Python ints, so nothing overflows.
TENSORS_PER_COMMAND_MAX: Final = 16_384  # a fused optimizer step lists every parameter 5 times.
INTS_PER_ATTR_MAX: Final = 1_024  # entries of one int[] argument.
STRING_BYTES_MAX: Final = 4 * KiB  # one string argument, utf-8.
ATTR_DEPTH_MAX: Final = 3  # nesting of tuples in an argument.

POLYNOMIAL_DEGREE_MAX: Final = 16_384  # of a recurrence: one pass over the tensor a degree.

# --- frames --------------------------------------------------------------------------------------
FRAME_COMMANDS_MAX: Final = 4_096  # commands; a client sends 256, or 1,024 to a busy worker.
FRAME_BYTES_MAX: Final = 2 * MiB  # encoded; the control connection's receive limit.
FRAME_IDS_MAX: Final = 65_536  # ids named by all commands of one frame.
FLUSH_COMMANDS: Final = 256  # commands gathered while another frame is in flight.
GROWN_COMMANDS: Final = 1_024  # the same while so many frames are: the worker has work meanwhile,
GROWN_FRAMES: Final = 2  # and each frame costs turns of all three processes.
FREE_IDS_MAX: Final = 16_384  # ids that one Free of a client names.
#: ids gathered: beyond, a frame is sent, so that one more Free and one more command always fit.
FLUSH_IDS: Final = FRAME_IDS_MAX - FREE_IDS_MAX - TENSORS_PER_COMMAND_MAX
FLUSH_BYTES: Final = 32 * KiB  # inline payload gathered before a frame is sent.
FLUSH_WORK_BYTES: Final = 4 * MiB  # of results not yet sent: beyond, waiting only holds memory.
WORK_BYTES: Final = FLUSH_WORK_BYTES // FLUSH_COMMANDS  # of results that count as a command.
WORK_IDS: Final = FLUSH_IDS // FLUSH_COMMANDS  # ids, or numbers, that count as a command.
FREE_IDS: Final = 64  # small tensors whose ids gather before one command frees them all.
FREE_BYTES: Final = 64 * KiB  # a tensor of this size is freed by the very next command.
FLUSH_QUIET_ROUNDS: Final = 50  # of FLUSH_DELAY_S without a command, until the flusher sleeps.
# With nothing under way a few commands wait for each other, at most FLUSH_DELAY_S: an operation and
# the reading of its value then travel as one message, each of which costs as much as many commands.
IDLE_COMMANDS: Final = 8  # or 128 KiB of results: work worth starting at once.
FLUSH_DELAY_S: Final = 0.001  # seconds a command may wait for company,
FLUSH_RARELY_S: Final = 0.008  # or so many: the first one after others that were all waited for.
INLINE_BYTES_MAX: Final = 64 * KiB  # tensor bytes that ride the control stream.
PAYLOAD_BYTES_MAX: Final = 256 * KiB  # the same of a frame, where another way up is a call.
FRAME_PAYLOADS_BYTES: Final = 1 * MiB  # of one frame: what more comes begins another.
CHUNK_BYTES: Final = 1 * MiB  # one message of a bulk transfer (measured best: 512 KiB to 1 MiB).

# --- flow ----------------------------------------------------------------------------------------
CREDIT_FRAMES: Final = 64  # frames sent and not yet acknowledged, per session.
CREDIT_BYTES: Final = 8 * MiB  # bytes of such frames.
TRANSFERS_MAX: Final = 64  # downloads that a gateway holds, per session.
#: uploads that a worker holds until their Put runs. A client has at most 64 in a frame (4 MiB of
#: results end it), so 4,096 in those without an ack, and may hold as many back for a replay.
UPLOADS_MAX: Final = 16_384
TRANSFERS_USED_MAX: Final = UPLOADS_MAX  # used and remembered, lest a replay brings one again.
EVENTS_QUEUED_MAX: Final = 4_096  # events waiting for a slow reader, per session.
FRAMES_UNCONFIRMED_MAX: Final = 65_536  # run, while the client still takes what they told.
# What a client has taken is told with its frames; beyond any of these by itself. Far less than what
# a gateway holds: FRAMES_UNCONFIRMED_MAX, EVENTS_QUEUED_MAX and 64 MiB of events.
CONFIRM_FRAMES: Final = 4_096
CONFIRM_EVENTS: Final = 256
CONFIRM_BYTES: Final = 8 * MiB
CALL_TRIES_MAX: Final = 64  # of one upload, download or question, whose connection breaks.
DEVICES_PER_SESSION_MAX: Final = 64
NUMERICS_CHANGES_MAX: Final = 16  # of a session that are remembered: the first, and the latest.
SESSIONS_PER_PAGE_MAX: Final = 1_000  # of a list; who wants more asks for those behind the last.
UNSENT_BYTES_MAX: Final = 256 * MiB  # downloads of a session waiting in a worker; then it pauses.
RECEIVED_BYTES_KEPT_MAX: Final = 128 * MiB  # of a process, for the next tensors that arrive.
# Memory shared by a client and a worker, a session: pages that are never used take none.
SHARED_UP_BYTES: Final = 64 * MiB  # uploads on their way; a client waits for room.
SHARED_DOWN_BYTES: Final = 128 * MiB  # values on their way; one that finds no room is streamed.
SHARED_PIECE_BYTES: Final = 32 * MiB  # of an upload; small ones cost turns of three processes.
SHARED_KEPT_BYTES: Final = 4 * MiB  # of one that a journal keeps: its gateway works meanwhile.
SHARED_PIECES_MAX: Final = 64  # in one message.
UP_FRAMES_MAX: Final = 4_096  # in one message; credits allow a client 64.
OPENINGS_MAX: Final = 64  # connections of one listener that have not proved their key yet.

# --- journal -------------------------------------------------------------------------------------
JOURNAL_RECORD_BYTES_MAX: Final = FRAME_BYTES_MAX + 64 * KiB  # the longest is a frame.
JOURNAL_SEGMENT_BYTES: Final = 64 * MiB  # of a segment: then the next begins.

SNAPSHOT_EVERY_S: Final = 2.0  # of a session that is at work; so long may a replay take
SNAPSHOT_SHARE: Final = 20.0  # times what the last one took: at most a twentieth of the time.
#: Of a session's memory: a larger snapshot is not copied first, its session waits until it is sent.
SNAPSHOT_COPY_SHARE: Final = 0.25
SNAPSHOT_EVERY_BYTES: Final = 256 * MiB  # of journal: then sooner.
SNAPSHOT_EVERY_FRAMES: Final = 100_000  # since the last one: then sooner, too.
#: A memory as long as this that was not written since the last snapshot stays in its file.
SNAPSHOT_KEPT_BYTES_MIN: Final = 64 * KiB
SNAPSHOT_FILES_MAX: Final = 8  # older ones that a snapshot refers to, each half in use at least.
CUT_HOLD_S: Final = 2.0  # that a snapshot holds frames back for devices that wait for uploads.
SYNC_DELAY_S: Final = 0.025  # frames that nobody waits for gather so long, then are synced at once.
SYNC_RECORDS: Final = 64  # of a journal: then sooner, so that clients need not keep more.
SYNC_BYTES: Final = 4 * MiB  # the same; of an upload, too: the disk works while the rest comes.
DURABLE_RIDES_S: Final = 0.025  # word of what is durable waits so long for a message to ride with.
UPLOADS_DONE_MAX: Final = 1_024  # uploads whose client may still ask whether they have arrived.
KEPT_NAME_BYTES_MAX: Final = 256  # of a name that a session's tensors are kept under.
KEPT_BODY_BYTES_MAX: Final = 256 * KiB  # of the JSON that it stands for: some 4,000 tensors.
KEPT_DEPTH_MAX: Final = 32  # of containers within containers in it.
KEPT_MAX: Final = 1_000  # names in a session, and
KEPT_BYTES_MAX: Final = MiB - 64 * KiB  # of them all: they fit into one answer.
OPENINGS_OF_JOURNALS: Final = 4  # read at a time when a gateway starts.
RECOVERIES_MAX: Final = 10  # of a session in a row, without a frame that was run: then it ends.

# --- engine --------------------------------------------------------------------------------------
TENSORS_PER_SESSION_MAX: Final = 10_000_000  # live ids.
TENSOR_BYTES: Final = 640  # of a worker's memory that a tensor takes beside its elements, at most,
NODE_BYTES: Final = 1_280  # a recorded op with what it saves, beside the elements, and
GENERATOR_BYTES: Final = 8 * KiB  # a generator. Measured by benchmarks/quota.py.
OBJECTS_FREE_SHARE: Final = (
    1 / 8
)  # of a session's memory that such objects take and are not charged,
OBJECTS_FREE_BYTES: Final = (4 * MiB, 32 * MiB)  # but at least and at most so many bytes.
OBJECTS_STEP: Final = 1_024  # new objects until a session's are weighed again.
#: memoised metas, plans, recipes and binders, of all ops together; cleared when full. Each takes up
#: to 2 KiB, and 128 MiB are what a hostile session may cost: see `core.op.weight`. A program that
#: takes the rows of a set of 60,000 one by one has as many; computing them anew takes eight times
#: as long as an indexing does.
MEMO_ENTRIES_MAX: Final = 65_536
PROGRAMS_MAX: Final = 64  # programs that a session has defined at a time.
PROGRAM_COMMANDS_MAX: Final = 4_095  # of a body: one frame holds it and its Define.
SWITCHES_MAX: Final = 4_096  # plans of a session known to run by compiled loops.
LOOP_CACHE_BYTES_MAX: Final = 64 * MiB  # compiled loops kept on disk, some KiB each.
LOOP_OBJECT_BYTES_MAX: Final = 4 * MiB  # of one of them; a longer one is compiled each time.
PROGRAMS_COMMANDS_MAX: Final = 131_072  # of all bodies together, half a KiB each.
PROGRAM_STEPS_MAX: Final = 32_768  # ops that a body comes to, with those of its Backwards.
PLANS_PER_PROGRAM_MAX: Final = 8  # kinds of inputs for which a program has a plan; the latest used.
SNAPSHOT_HEADER_BYTES_MAX: Final = 256 * MiB  # the structure of an engine's state, as JSON.
ARENA_CALLS: Final = 256  # of a session: a plan that ran in none of them keeps no memory.
ERRORS_PER_FRAME_MAX: Final = 64  # Failed events reported for one frame.
ERRORS_UNREAD_MAX: Final = 256  # errors a client keeps until somebody waits.

# --- programs, on the client ----------------------------------------------------------------------
REPLAY_COMMANDS_MIN: Final = 4  # shorter runs without a backward pass gain nothing from a Call.
REPLAY_HELD_MAX: Final = PROGRAM_COMMANDS_MAX  # commands held back while they go as predicted.
REPLAY_HELD_BYTES: Final = CREDIT_BYTES  # of tensors among them; then they are sent.
REPLAY_HELD_S: Final = 0.02  # seconds they wait for the next of their run; then they are sent.
REPLAY_HELD_ALL_S: Final = 0.1  # seconds that the first of them waits at most.
REPLAY_ENDLESS: Final = 1_024  # commands without an end: if they repeat they are cut into pieces,
REPLAY_PIECE: Final = 128  # of so many commands, or fewer.
REPLAY_RUNS_MAX: Final = 256  # kinds of runs remembered; all are forgotten when there are more.
REPLAY_NEXT_MAX: Final = 4  # kinds of runs that may follow one, the latest ones.
REPLAY_VARIANTS_MAX: Final = 3  # programs of one form that differ in what leaves them.
REPLAY_MISSES_MAX: Final = 8  # defined anew, or broken off, more often than called: let it be.
TRACES_MAX: Final = 8  # programs of one compiled function; other calls stay eager, and it says so.
TRACES_NEVER_MAX: Final = 32  # kinds of calls found to have no program; others are not tried.
GUARDS_MAX: Final = 20_000  # values that one compiled function looks at before each call.
GUARD_DEPTH_MAX: Final = 8  # containers within containers that are searched for tensors.

# --- profiles ------------------------------------------------------------------------------------
TRACE_RECORDS_MAX: Final = 200_000  # commands, steps or frames that one process notes; then counts.
TRACE_FRAMES_MAX: Final = 8_192  # frames and answers that a gateway notes of a session.

# --- what an operator sees -----------------------------------------------------------------------
TENANTS_SHOWN_MAX: Final = 64  # by name in metrics; what is beyond goes by one name together.
WORKERS_SHOWN_MAX: Final = 256  # by name in metrics.
OPERATOR_CALLS_MAX: Final = 16  # connections of the operator's port at once; the next one waits.
CUT_WAIT_S: Final = 5.0  # for a snapshot of a session that is to leave its worker.
MOVE_S: Final = 120.0  # for a session that moves to have arrived: snapshot, restore, replay.
DRAIN_WAIT_S: Final = 60.0  # for sessions without a journal to leave a worker that drains.
DISK_FREE_BYTES_MIN: Final = 512 * MiB  # below, a gateway with journals takes no new sessions.

# --- time ----------------------------------------------------------------------------------------
CONNECT_S: Final = 10.0
HEARTBEAT_S: Final = 0.5
COMMAND_S: Final = 300.0  # a command that runs longer ends its session, unless configured.
TURN_S: Final = 0.001  # of a session, on a worker that has several.
IDLE_S: Final = 10.0  # without a frame a worker gives freed memory back to the system.
SUSPECT_S: Final = 2.0  # without a heartbeat a worker is suspect.
SILENT_S: Final = 10.0  # a suspect that stays silent this long is killed and replaced.
START_S: Final = 60.0  # a worker process that does not listen by then is killed.
RESTART_DELAY_S_MAX: Final = 30.0  # between attempts to start a worker that will not start.
LEASE_S: Final = 60.0  # without its client a session keeps its workers this long.
STALLED_S: Final = 24.0  # a client that does not take a message for so long is cut off.
RESTART_S: Final = 60.0  # a gateway that was killed is back by then; clients wait so much longer.
RECONNECT_DELAY_S_MAX: Final = 1.0  # between a client's attempts; the first follows at once.
HURRY_S: Final = 2.0  # a client that ends its session waits so long for a gateway that is away.
CONFIRM_S: Final = 0.25  # what a client has taken waits so long for a frame to be told with.
PROGRESS_AFTER_S: Final = 1.0  # a transfer longer than this shows progress.
