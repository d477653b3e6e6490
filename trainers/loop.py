"""What does a run do, step after step? Load, step, snapshot, and now and then evaluate and save; leave when asked."""

from .session import Session


def train(session: Session) -> str:
    """Take a session from the step it was restored at to its last; "finished" or "stopped". Collective."""
    session.enter("train")
    session.clock.read()  # the first step's time begins here
    for step in range(session.start, session.steps):
        session.trace.before(step + 1)
        batches, stop = session.load(step), bool(session.worker.stop())
        outcome = session.step(step, batches, stop, session.clock, session.fresh(step))
        done = step + 1
        session.report(done, outcome)  # before the snapshot: a kill in between repeats a step, and loses none
        session.snapshot(done)
        session.trace.after(done)
        if session.evaluates_after(done):
            session.evaluate(done)
        if outcome.stop and done < session.steps:
            session.save(done)
            return session.end(done, "stopped")
        if session.saves_after(done):
            session.save(done)
    return session.end(session.steps, "finished")
