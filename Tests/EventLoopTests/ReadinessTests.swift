import Testing

@testable import EventLoop

@Suite struct ReadinessTests {
    /// Whichever of two ready handlers comes first closes the other and puts a newcomer into its slot, within one batch of events.
    @Test func anEventOfAClosedHandlerNeverReachesItsSuccessor() throws {
        let loop = try EventLoop()
        let pairs = try (SocketPair(), SocketPair())
        let fresh = try SocketPair()
        let first = ScriptedHandler(loop: loop)
        let second = ScriptedHandler(loop: loop)
        let successor = ScriptedHandler(loop: loop)
        var calls = 0
        var successorSaw: [Readiness] = []
        func replace(_ victim: ScriptedHandler, _ pair: SocketPair) {
            calls += 1
            let slot = victim.slot
            victim.detach()
            pair.closeEnd(0)
            #expect(throws: Never.self) { try successor.attach(descriptor: fresh.near) }
            #expect(successor.slot == slot && slot != nil)
            successor.setDeadline(loop.now + 1_000_000)
        }
        first.onReady = { _, readiness in if readiness.contains(.readable) { replace(second, pairs.1) } }
        second.onReady = { _, readiness in if readiness.contains(.readable) { replace(first, pairs.0) } }
        successor.onReady = { _, readiness in successorSaw.append(readiness) }
        successor.onDeadline = { $0.loop.stop() }
        pairs.0.writeFar("a")
        pairs.1.writeFar("b")
        try first.attach(descriptor: pairs.0.near)
        try second.attach(descriptor: pairs.1.near)
        run(loop)
        #expect(calls == 1)
        // Its own descriptor is writable and has nothing to read.
        #expect(successorSaw == [.writable])
    }

    @Test func edgesAreReportedOnceEach() throws {
        let loop = try EventLoop()
        let pair = try SocketPair()
        var seen: [Readiness] = []
        let handler = ScriptedHandler(loop: loop)
        let end = ScriptedHandler(loop: loop)
        end.onDeadline = { $0.loop.stop() }
        handler.onReady = { _, readiness in
            seen.append(readiness)
            switch seen.count {
            case 1: pair.writeFar("unread")
            case 2: pair.writeFar("unread too")
            case 3: pair.closeEnd(1)
            default: end.setDeadline(loop.now + 1_000_000)
            }
        }
        try handler.attach(descriptor: pair.near)
        run(loop)
        #expect(seen == [.writable, [.readable, .writable], [.readable, .writable], [.readable, .writable, .peerClosed, .hungUp]])
    }

    /// As a producer for many does it: from its deadline, and from the end of a turn that the end of the batch has led to.
    @Test func aBatchThatIsFinishedEarlyCallsEachHandlerOnceForEachTimeItAsked() throws {
        let loop = try EventLoop()
        var log: [String] = []
        func handler(_ name: String) -> ScriptedHandler {
            let handler = ScriptedHandler(loop: loop)
            handler.onTurnEnd = { _ in log.append(name) }
            return handler
        }
        let (first, second, third) = (handler("first"), handler("second"), handler("third"))
        let producer = ScriptedHandler(loop: loop)
        producer.onDeadline = { producer in
            first.callAtBatchEnd()
            second.callAtBatchEnd()
            loop.finishBatch()
            log.append("early")
            first.callAtBatchEnd()
            third.callAtBatchEnd()
            producer.setDeadline(nil)
        }
        // In the midst of the batch's end one handler wakes the producer, which has the rest of the batch served.
        var isWoken = false
        first.onTurnEnd = { _ in
            log.append("first")
            guard log.contains("early"), !isWoken else { return }
            isWoken = true
            producer.callAtTurnEnd()
        }
        producer.onTurnEnd = { _ in
            log.append("producer")
            second.callAtBatchEnd()
            loop.finishBatch()
            log.append("rest")
            second.callAtTurnEnd()
            loop.stop()
        }
        producer.setDeadline(loop.now)
        run(loop)
        #expect(log == ["first", "second", "early", "first", "producer", "third", "second", "rest", "second"])
    }

    @Test func aTurnEndsOnceAfterTheEventThatAskedForIt() throws {
        let loop = try EventLoop()
        let pair = try SocketPair()
        var log: [String] = []
        let handler = ScriptedHandler(loop: loop)
        let batched = ScriptedHandler(loop: loop)
        let chained = ScriptedHandler(loop: loop)
        handler.onReady = { handler, readiness in
            log.append(readiness.contains(.writable) ? "event" : "again")
            handler.callAtTurnEnd()
            handler.callAtTurnEnd()
            batched.callAtBatchEnd()
            batched.callAtBatchEnd()
            if log.count == 1 {
                handler.callAgain()
                handler.callAgain()
            } else {
                handler.loop.stop()
            }
        }
        handler.onTurnEnd = { _ in
            log.append("turn")
            chained.callAtTurnEnd()
        }
        chained.onTurnEnd = { _ in log.append("chained") }
        batched.onTurnEnd = { _ in log.append("batch") }
        try handler.attach(descriptor: pair.near)
        run(loop)
        // Asked again within a wake it comes in the same wake, and what is gathered over the wake leaves once.
        #expect(log == ["event", "turn", "chained", "again", "turn", "chained", "batch"])
    }

    @Test func aDetachedHandlerIsNotCalledAgain() throws {
        let loop = try EventLoop()
        let pair = try SocketPair()
        var calls = 0
        let handler = ScriptedHandler(loop: loop)
        handler.onReady = { handler, _ in
            calls += 1
            handler.callAgain()
            handler.detach()
            handler.loop.stop()
        }
        try handler.attach(descriptor: pair.near)
        run(loop)
        #expect(calls == 1)
    }
}
