import Testing

@testable import Wire

/// Which requests share which part of their prompt.
@Suite struct RequestProbePromptTests {
    private let text = "a text that is longer than three chunks of sixteen bytes, so that it shows"

    private func sharedChunks(_ left: Probed, _ right: Probed) -> Int {
        zip(left.hashes, right.hashes).prefix { $0 == $1 }.count
    }

    @Test func keyOrderWhitespaceAndSamplingDoNotMatter() {
        let one = Probed(
            #"{"model":"m","tools":[{"type":"function"}],"messages":[{"role":"user","content":"\#(text)","name":"bob"}],"n":2}"#)
        let other = Probed(
            #"""
            { "temperature" : 1, "messages" : [ { "name": "bob", "content": "\#(text)", "role": "user" } ],
              "unknown": {"x": [1]}, "tools": [ { "type" : "function" } ], "model": "m" }
            """#)
        #expect(one.hashes == other.hashes)
        #expect(one.promptBytes == other.promptBytes)
        #expect(one.hashes.count > 4)
    }

    @Test func modelSaltLoRAAndSeedSeparate() {
        let bodies = [
            #"{"prompt":"\#(text)"}"#, #"{"model":"a","prompt":"\#(text)"}"#, #"{"model":"b","prompt":"\#(text)"}"#,
            #"{"model":"a","cache_salt":"x","prompt":"\#(text)"}"#, #"{"model":"a","cache_salt":"y","prompt":"\#(text)"}"#,
            #"{"model":"ax","prompt":"\#(text)"}"#, #"{"model":"a","lora_path":"x","prompt":"\#(text)"}"#,
            #"{"model":"a","lora":[{"id":0,"scale":0.5}],"prompt":"\#(text)"}"#,
            #"{"model":"a","lora":[{"id":0,"scale":0.6}],"prompt":"\#(text)"}"#,
        ]
        var firsts = Set(bodies.map { Probed($0).hashes[0] })
        firsts.insert(Probed(bodies[0], seed: 1).hashes[0])
        #expect(firsts.count == bodies.count + 1)
        #expect(Probed(#"{"model":"a","user":"u","prompt":"\#(text)"}"#).hashes == Probed(bodies[1]).hashes)
        // A missing, null and empty model are one to the engine.
        #expect(Probed(#"{"model":"","prompt":"\#(text)"}"#).hashes == Probed(bodies[0]).hashes)
    }

    @Test(arguments: [
        (
            #"[{"role":"user","content":"AB"},{"role":"assistant","content":""}]"#,
            #"[{"role":"user","content":"A"},{"role":"assistant","content":"B"}]"#
        ),
        (#"[{"role":"user","content":"AB"}]"#, #"[{"role":"userA","content":"B"}]"#),
        (#"[{"role":"user","content":"AB"}]"#, #"[{"role":"user","content":"A"},{"role":"user","content":"B"}]"#),
        (#"[{"role":"user","content":"AB"}]"#, #"[{"role":"user","name":"A","content":"B"}]"#),
        (#"[{"role":"tool","name":"A","content":"B"}]"#, #"[{"role":"tool","tool_call_id":"A","content":"B"}]"#),
        (
            #"[{"role":"user","content":[{"type":"text","text":"AB"}]}]"#,
            #"[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","text":"B"}]}]"#
        ),
        (
            #"[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]}]"#,
            #"[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"g","arguments":"{}"}}]}]"#
        ),
        (
            #"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:A"}}]}]"#,
            #"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:B"}}]}]"#
        ),
        (
            #"[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"A"}}]}]"#,
            #"[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"B"}}]}]"#
        ),
        (
            #"[{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"A"}]}]"#,
            #"[{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"B"}]}]"#
        ),
    ])
    func conversationsThatDifferHaveDifferentPrompts(left: String, right: String) {
        // A long last message pushes the difference out of the unhashed tail.
        func probed(_ messages: String) -> Probed {
            Probed(#"{"messages":\#(messages.dropLast()),{"role":"user","content":"\#(text)"}]}"#)
        }
        #expect(probed(left).hashes.last != probed(right).hashes.last)
    }

    /// What a conversation's next turn says of the former one is what that said of itself, however short its question.
    @Test(arguments: [
        (
            #"{"messages":[{"role":"user","content":"hi"}]}"#,
            #"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"A"},LAST]}"#
        ),
        (
            #"{"model":"m","tools":[{"name":"f"}],"messages":[{"role":"system","content":"TEXT"},{"role":"user","content":"hi"}]}"#,
            #"{"messages":[{"role":"system","content":"TEXT"},{"role":"user","content":"hi"},{"content":"A","role":"assistant"},LAST],"tools":[{"name":"f"}],"model":"m"}"#
        ),
        (
            #"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"A"},{"role":"user","content":"ho"}]}"#,
            #"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"A"},{"role":"user","content":"ho"},{"role":"assistant","tool_calls":[{"id":"1"}]},{"role":"tool","content":"B"},LAST]}"#
        ),
        (
            #"{"system":"TEXT","messages":[{"role":"user","content":"hi"}]}"#,
            #"{"system":"TEXT","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"text","text":"A"}]},LAST]}"#
        ),
        (
            #"{"input":[{"role":"user","content":"TEXT"}]}"#,
            #"{"input":[{"role":"user","content":"TEXT"},{"role":"assistant","content":"A"},LAST]}"#
        ),
        (#"{"input":"TEXT"}"#, #"{"input":[{"role":"user","content":"TEXT"},{"role":"assistant","content":"A"},LAST]}"#),
        (
            #"{"input":"TEXT"}"#,
            #"{"input":[{"role":"user","content":"TEXT"},{"type":"reasoning"},{"type":"function_call","name":"f"},{"type":"function_call_output","output":"B"}]}"#
        ),
        (
            #"{"input":[{"role":"user","content":"TEXT"},{"type":"function_call","name":"f"},{"type":"function_call_output","output":"B"}]}"#,
            #"{"input":[{"role":"user","content":"TEXT"},{"type":"function_call","name":"f"},{"type":"function_call_output","output":"B"},{"type":"reasoning"},{"role":"assistant","content":"A"},LAST]}"#
        ),
    ])
    func aNextTurnNamesTheFormerOne(former: String, next: String) {
        let one = Probed(former.replacing("TEXT", with: text))
        let other = Probed(next.replacing("TEXT", with: text).replacing("LAST", with: #"{"role":"user","content":"\#(text)"}"#))
        #expect(one.promptDigest != 0 && other.formerTurnDigest == one.promptDigest)
        #expect(other.promptDigest != one.promptDigest && other.promptDigest != 0)
    }

    @Test func onlyConversationsHaveDigests() {
        for body in [#"{"prompt":"\#(text)"}"#, #"{"input":[1,2]}"#, #"{"messages":null}"#, #"{"messages":"x"}"#, "[]", "{"] {
            #expect(Probed(body).promptDigest == 0 && Probed(body).formerTurnDigest == 0, "\(body)")
        }
        let first = #"{"messages":[{"role":"user","content":"hi"}]}"#
        #expect(Probed(first).formerTurnDigest == 0)
        var digests: Set<UInt64> = [Probed(first, seed: 9).promptDigest]
        let others = [
            #"{"model":"m",\#(first.dropFirst())"#, #"{"cache_salt":"m",\#(first.dropFirst())"#, first.replacing("hi", with: "ho"),
        ]
        for body in [first] + others { digests.insert(Probed(body).promptDigest) }
        #expect(digests.count == 5 && !digests.contains(0))
    }

    @Test(arguments: [
        (#"{"messages":[{"role":"user","content":"TEXT"}]}"#, #"{"messages":[{"role":"user","content":[{"type":"text","text":"TEXT"}]}]}"#),
        (
            #"{"messages":[{"role":"user","content":"TEXT"}]}"#,
            #"{"input":[{"role":"user","content":[{"type":"input_text","text":"TEXT"}]}]}"#
        ),
        (#"{"messages":[{"role":"user","content":"TEXT"}]}"#, #"{"input":"TEXT"}"#),
        (
            #"{"messages":[{"role":"system","content":"TEXT"},{"role":"user","content":"x"}]}"#,
            #"{"messages":[{"role":"user","content":"x"}],"system":[{"type":"text","text":"TEXT","cache_control":{"type":"ephemeral"}}]}"#
        ),
        (#"{"instructions":"TEXT","input":"x"}"#, #"{"system":"TEXT","messages":[{"role":"user","content":"x"}]}"#),
        (#"{"tools":[{"name":"TEXT"}]}"#, #"{"functions":[{"name":"TEXT"}]}"#),
        (#"{"prompt":"TEXT"}"#, #"{"prompt":["TEXT"]}"#),
        (#"{"prompt":[1,2,3,4,5,6,7,8]}"#, #"{"prompt":[[1,2,3,4,5,6,7,8]]}"#),
        (
            #"{"messages":[{"role":"assistant","content":null},{"role":"user","content":"TEXT"}]}"#,
            #"{"messages":[{"role":"assistant","tool_calls":null},{"role":"user","content":"TEXT"}]}"#
        ),
        (
            #"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"data:A"},{"type":"text","text":"TEXT"}]}]}"#,
            #"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:A","detail":"low"}},{"type":"text","text":"TEXT"}]}]}"#
        ),
        (
            #"{"messages":[{"role":"user","content":[{"type":"tool_result","content":"TEXT"}]}]}"#,
            #"{"messages":[{"role":"user","content":[{"type":"tool_result","content":"TEXT","cache_control":{"type":"ephemeral"}}]}]}"#
        ),
    ])
    func spellingsOfOnePromptAgree(left: String, right: String) {
        let one = Probed(left.replacing("TEXT", with: text))
        let other = Probed(right.replacing("TEXT", with: text))
        #expect(one.hashes == other.hashes)
        #expect(one.promptBytes == other.promptBytes)
        #expect(!one.hashes.isEmpty)
    }

    @Test func toolsComeFirst() {
        let tool = #"{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}"#
        let one = Probed(#"{"messages":[{"role":"user","content":"one \#(text)"}],"tools":[\#(tool)]}"#)
        let other = Probed(#"{"tools":[\#(tool)],"messages":[{"role":"user","content":"two \#(text)"}]}"#)
        let more = Probed(#"{"tools":[\#(tool),\#(tool)],"messages":[{"role":"user","content":"two \#(text)"}]}"#)
        #expect(sharedChunks(one, other) >= 2)
        #expect(sharedChunks(one, other) < one.hashes.count)
        #expect(sharedChunks(other, more) >= 2)
        #expect(Probed(#"{"tools":[],"prompt":"\#(text)"}"#) == Probed(#"{"tools":null,"prompt":"\#(text)"}"#))
    }

    @Test func tokenIdsCountFourBytesAndDiffer() {
        let ids = (0..<64).map(String.init).joined(separator: ",")
        let one = Probed(#"{"prompt":[\#(ids)]}"#)
        #expect(one.promptBytes == 1 + 4 * 64)
        let changed = Probed(#"{"prompt":[\#(ids.replacing("40", with: "41"))]}"#)
        #expect(sharedChunks(one, changed) == (1 + 4 * 40) / 16)
        let batch = Probed(#"{"prompt":[[\#(ids)],[\#(ids)]]}"#)
        #expect(batch.promptBytes == 2 * one.promptBytes)
        #expect(sharedChunks(one, batch) == one.hashes.count)
        #expect(Probed(#"{"input":[\#(ids)]}"#) == one)
    }

    /// What templates are given besides messages stands at the beginning of the rendered prompt.
    @Test(arguments: [
        #""chat_template_kwargs":{"enable_thinking":false}"#, #""chat_template_kwargs":{"date_string":"26 Jul 2026"}"#,
        #""chat_template":"{{ messages }}""#, #""documents":[{"title":"t","text":"x"}]"#, #""reasoning_effort":"high""#,
        #""reasoning":{"effort":"high"}"#,
    ])
    func whatTemplatesAreGivenSeparates(field: String) {
        let messages = #""messages":[{"role":"user","content":"\#(text)"}]"#
        let plain = Probed("{\(messages)}")
        #expect(sharedChunks(plain, Probed("{\(messages),\(field)}")) == 0)
        #expect(Probed("{\(field),\(messages)}").hashes == Probed("{\(messages),\(field)}").hashes)
        let name = field.prefix { $0 != ":" }
        #expect(Probed("{\(messages),\(name):null}").hashes == plain.hashes)
    }

    /// A thousand tokens each: its digest alone would be two, and an image that is cached worth nothing.
    @Test func anImageWeighsAsMuchAsAThousandTokens() {
        func images(_ count: Int, then text: String) -> Probed {
            let image = #"{"type":"image_url","image_url":{"url":"data:A"}}"#
            let parts = Array(repeating: image, count: count) + [#"{"type":"text","text":"\#(text)"}"#]
            return Probed(#"{"messages":[{"role":"user","content":[\#(parts.joined(separator: ","))]}]}"#)
        }
        let none = images(0, then: text)
        #expect(images(1, then: text).promptBytes == none.promptBytes + 4_096 + 1)
        #expect(sharedChunks(images(1, then: "one \(text)"), images(1, then: "two \(text)")) >= 4_096 / 16)
        // However many somebody sends, it is a bounded amount of work.
        #expect(images(300, then: text).promptBytes == none.promptBytes + 256 * 4_096 + 44 * 9 + 1)
    }

    /// Random conversations: each turn's prompt begins with all full chunks of the one before, and a changed message ends the sharing
    /// exactly where it stands.
    @Test func growthPreservesThePrefix() {
        var generator = SplitMix64(state: 2026)
        func words() -> String {
            let choice = ["lorem ", "ipsum\\n", "\\u00e9t\\u00e9 ", "日本 ", "\\\"quote\\\" ", "x", ""]
            return (0..<Int(generator.next() % 40)).map { _ in choice[Int(generator.next() % UInt64(choice.count))] }.joined()
        }
        func message(_ index: Int) -> String {
            switch generator.next() % 5 {
            case 0: #"{"role":"user","content":"\#(words())"}"#
            case 1: #"{"content":[{"type":"text","text":"\#(words())"},{"text":"\#(words())","type":"text"}],"role":"user"}"#
            case 2:
                #"{"role":"assistant","content":null,"tool_calls":[{"id":"c\#(index)","function":{"name":"f","arguments":"\#(words())"}}]}"#
            case 3: #"{"role":"tool","tool_call_id":"c\#(index)","content":"\#(words())"}"#
            default: #"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:\#(words())"}}]}"#
            }
        }
        let probe = RequestProbe(maximumChunks: 4096, chunkBytes: 16)
        for _ in 0..<40 {
            var messages: [String] = []
            var last: Probed?
            for turn in 0..<10 {
                messages.append(message(turn))
                let body = #"{"model":"m","tools":[{"name":"f"}],"messages":[\#(messages.joined(separator: ","))]}"#
                let probed = Probed(bytes: Array(body.utf8), probe: probe)
                #expect(probed.isJSON)
                if let last {
                    #expect(probed.promptBytes > last.promptBytes)
                    #expect(sharedChunks(last, probed) == last.hashes.count)
                    let edited = messages.dropLast() + [#"{"role":"critic","content":"\#(text)"}"#]
                    let other = Probed(
                        bytes: Array(#"{"model":"m","tools":[{"name":"f"}],"messages":[\#(edited.joined(separator: ","))]}"#.utf8),
                        probe: probe)
                    // The marker that opens the new message is shared, its role is not.
                    #expect(sharedChunks(other, probed) == (last.promptBytes + 1) / 16)
                }
                last = probed
            }
        }
    }
}
