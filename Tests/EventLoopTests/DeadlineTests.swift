import Testing

@testable import EventLoop

@Suite struct DeadlineTests {
    @Test func comeInTheirOrder() throws {
        let loop = try EventLoop()
        var random = SeededGenerator(seed: 3)
        var fired: [Int] = []
        for place in Array(0..<200).shuffled(using: &random) {
            let handler = ScriptedHandler(loop: loop)
            let asked = loop.now + UInt64(place) * 10_000
            handler.onDeadline = { handler in
                #expect(handler.loop.now >= asked)
                fired.append(place)
                if fired.count == 200 { handler.loop.stop() }
            }
            handler.setDeadline(asked)
        }
        run(loop)
        #expect(fired == Array(0..<200))
    }

    @Test func aLoopThatNeverSleepsKeepsThemToo() throws {
        let loop = try EventLoop()
        #expect(loop.nanosecondsUntilNextDeadline() == -1)
        let distant = ScriptedHandler(loop: loop)
        distant.setDeadline(loop.now + 900_000_000_000)
        #expect(loop.nanosecondsUntilNextDeadline() > 0)
        loop.busyPolls = true
        #expect(loop.nanosecondsUntilNextDeadline() == 0)
        var fired: [Int] = []
        for place in [2, 0, 1] {
            let handler = ScriptedHandler(loop: loop)
            let asked = loop.now + UInt64(place) * 1_000_000
            handler.onDeadline = { handler in
                #expect(handler.loop.now >= asked)
                fired.append(place)
                if place == 2 { handler.loop.mailbox.post { $0.stop() } }
            }
            handler.setDeadline(asked)
        }
        run(loop)
        #expect(fired == [0, 1, 2])
    }

    @Test func movedEarlierAndLaterComeWhereTheyWereMovedTo() throws {
        let loop = try EventLoop()
        let base = loop.now
        var fired: [String] = []
        /// Comes once, and not before `offset`.
        func handler(_ name: String, notBefore offset: UInt64) -> ScriptedHandler {
            let handler = ScriptedHandler(loop: loop)
            handler.onDeadline = { handler in
                #expect(handler.loop.now >= base + offset, "\(name)")
                fired.append(name)
            }
            return handler
        }
        let earlier = handler("earlier", notBefore: 100_000)
        earlier.setDeadline(base + 900_000_000_000)
        earlier.setDeadline(base + 100_000)
        let later = handler("later", notBefore: 30_000_000)
        later.setDeadline(base + 1)
        later.setDeadline(base + 30_000_000)
        let cleared = handler("cleared", notBefore: .max - base)
        cleared.setDeadline(base + 2)
        cleared.setDeadline(nil)
        let clearedAndSet = handler("cleared and set", notBefore: 20_000_000)
        clearedAndSet.setDeadline(base + 3)
        clearedAndSet.setDeadline(nil)
        clearedAndSet.setDeadline(base + 20_000_000)
        let often = handler("often", notBefore: 10_000_000)
        for step in 0..<500 { often.setDeadline(base + 9_000_000 - UInt64(step) * 900) }
        for step in 0...500 { often.setDeadline(base + 5_000_000 + UInt64(step) * 10_000) }
        let end = ScriptedHandler(loop: loop)
        end.onDeadline = { $0.loop.stop() }
        end.setDeadline(base + 40_000_000)
        run(loop)
        // One that was moved later is looked at when its first entry comes due, so only their number is certain on a slow machine.
        #expect(fired.sorted() == ["cleared and set", "earlier", "later", "often"])
    }

    @Test func aHandlerMaySetItsDeadlineAnewWhenItIsReached() throws {
        let loop = try EventLoop()
        var times: [UInt64] = []
        let handler = ScriptedHandler(loop: loop)
        handler.onDeadline = { handler in
            times.append(handler.loop.now)
            if times.count == 5 { handler.loop.stop() } else { handler.setDeadline(handler.loop.now + 1_000) }
        }
        handler.setDeadline(loop.now + 1_000)
        run(loop)
        #expect(times.count == 5)
        #expect(zip(times, times.dropFirst()).allSatisfy { $0 + 1_000 <= $1 })
    }

    @Test func detachedHandlersAreForgotten() throws {
        let loop = try EventLoop()
        let base = loop.now
        var fired: [String] = []
        let gone = ScriptedHandler(loop: loop)
        gone.onDeadline = { _ in fired.append("gone") }
        gone.setDeadline(base + 100_000)
        let slot = gone.slot
        gone.detach()
        // Takes the slot that `gone` had, and must not be woken by its entry.
        let successor = ScriptedHandler(loop: loop)
        successor.onDeadline = { handler in
            #expect(handler.loop.now >= base + 300_000)
            fired.append("successor")
            handler.loop.stop()
        }
        successor.setDeadline(base + 300_000)
        #expect(successor.slot == slot)
        // Detached by another handler's deadline in the same turn.
        let victim = ScriptedHandler(loop: loop)
        victim.onDeadline = { _ in fired.append("victim") }
        let killer = ScriptedHandler(loop: loop)
        killer.onDeadline = { _ in
            fired.append("killer")
            victim.detach()
        }
        killer.setDeadline(base + 1)
        victim.setDeadline(base + 2)
        run(loop)
        #expect(fired == ["killer", "successor"])
    }

    @Test func theLoopLetsGoOfDetachedHandlers() throws {
        let loop = try EventLoop()
        weak var weakHandler: ScriptedHandler?
        do {
            let handler = ScriptedHandler(loop: loop)
            handler.setDeadline(loop.now + 1_000_000_000)
            weakHandler = handler
        }
        #expect(weakHandler != nil)
        weakHandler?.detach()
        #expect(weakHandler == nil)
    }

    /// A turn that took 3 ms must not make what is due 4 ms after its beginning 3 ms late.
    @Test func aWaitCountsFromWhenItBegins() {
        let later: () -> UInt64 = { 1_003_000_000 }
        #expect(EventLoop.wait(until: 1_004_000_000, turnBegan: 1_000_000_000, clock: later) == 1_000_000)
        #expect(EventLoop.wait(until: 1_002_000_000, turnBegan: 1_000_000_000, clock: later) == 0)
        #expect(EventLoop.wait(until: 1_000_000_000, turnBegan: 1_000_000_000, clock: later) == 0)
        let bound = EventLoop.exactWaitNanoseconds
        #expect(EventLoop.wait(until: 1_000_000_000 + bound, turnBegan: 1_000_000_000, clock: later) == Int64(bound) - 3_000_000)
        // A distant one is not worth a look at the clock in every turn.
        #expect(EventLoop.wait(until: 1_000_000_001 + bound, turnBegan: 1_000_000_000, clock: later) == Int64(bound) + 1)
    }
}
