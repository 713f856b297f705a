import CXXHash

/// The chained hash that names a KV block: by its tokens and by everything before them.
///
/// Two blocks have the same hash only when the whole text up to and including them is the same, which is what makes a block
/// reusable: a token's key and value depend on every token before it.
public enum BlockHash {
    /// The parent of a prompt's first block. A cache salt and a LoRA adapter part the chains, as in vLLM, where the salt is
    /// hashed into the first block and the adapter into every one.
    public static func root(cacheSalt: String? = nil, adapter: String? = nil) -> UInt64 {
        var root: UInt64 = 0x5377_6966_746c_6574
        if let adapter { root = hash(of: adapter, seed: root &+ 1) }
        if let cacheSalt { root = hash(of: cacheSalt, seed: root &+ 2) }
        return root
    }

    /// A LoRA adapter's id, from its name.
    public static func adapter(named name: String) -> AdapterID { hash(of: name, seed: 0x6c6f_7261) }

    /// The hash of a block of `tokens` that follows the block `parent`; never 0, so that 0 can stand for "no hash".
    static func next(after parent: UInt64, tokens: UnsafeBufferPointer<UInt32>) -> UInt64 {
        guard let base = tokens.baseAddress else { return parent }
        let hash = swl_xxh3(base, tokens.count &* MemoryLayout<UInt32>.size, parent)
        return hash == 0 ? 1 : hash
    }

    /// The hash of a block whose tokens nobody knows, and which therefore is like no other: `salt` sets its text apart.
    public static func next(after parent: UInt64, salt: UInt64) -> UInt64 {
        var mixed = (parent ^ salt) &+ 0x9e37_79b9_7f4a_7c15
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        mixed ^= mixed >> 31
        return mixed == 0 ? 1 : mixed
    }

    static func hash(of text: String, seed: UInt64) -> UInt64 {
        var text = text
        return text.withUTF8 { hash(of: UnsafeRawBufferPointer($0), seed: seed) }
    }

    static func hash(of bytes: UnsafeRawBufferPointer, seed: UInt64) -> UInt64 {
        guard let base = bytes.baseAddress else { return seed &* 0x9e37_79b9_7f4a_7c15 | 1 }
        return swl_xxh3(base, bytes.count, seed)
    }
}
