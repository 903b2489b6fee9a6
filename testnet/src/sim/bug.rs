//! Mistakes that a shell could make, to be planted on purpose: the simulator must find each.
//!
//! None of them is in code that runs elsewhere: the simulated node's shell looks at the switch where it would be
//! wrong.

use std::str::FromStr;

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A mistake of the simulated node's shell.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// Returns its name on the command line.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// A revocation counts without being written down.
    SkipPersist = "skip-persist",
    /// A revocation counts before it is on disk.
    PersistLate = "persist-late",
    /// What others report counts as if it were proven.
    HearsayAsProof = "hearsay-as-proof",
    /// What a peer knows of revocations takes the place of what was known.
    UnrevokeOnMerge = "unrevoke-on-merge",
    /// Records of peers are not read back.
    ForgetRecords = "forget-records",
    /// Revocations are not read back.
    ForgetRevocations = "forget-revocations",
    /// Flags of conflicts are not read back.
    ForgetFlags = "forget-flags",
    /// A peer that attests twice counts twice.
    CountTwice = "count-twice",
    /// The version that is not preferred is deleted.
    DeleteLoser = "delete-loser",
    /// What contradicts a stored segment is not stored.
    KeepFirst = "keep-first",
    /// Questions are answered without asking the gate.
    ServeAnyone = "serve-anyone",
    /// What peers send is taken in without asking the gate.
    HearAnyone = "hear-anyone",
    /// Announcements count whatever their signature.
    SkipSignature = "skip-signature",
    /// Segments are stored whatever their hash.
    SkipHash = "skip-hash",
    /// The number of one's own announcements begins anew after a restart.
    ForgetSequence = "forget-sequence",
    /// Revocations that were missed are not asked for.
    SkipReconciliation = "skip-reconciliation",
    /// Catalogs with as many segments count as equal.
    CompareCounts = "compare-counts",
    /// Who repeats old news is blamed for it.
    BlameMessenger = "blame-messenger",
    /// Withdrawals from the future are not believed.
    TrustClock = "trust-clock",
    /// Template sets are used whatever one's own history says.
    AdoptUnfit = "adopt-unfit",
    /// Template sets count whatever their signature.
    AdoptUnsigned = "adopt-unsigned",
    /// Template sets are used without asking the gate about their author.
    UseAnyone = "use-anyone",
    /// What was seen is never forgotten.
    RememberAll = "remember-all",
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|bug| bug.as_str() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|bug| bug.as_str()).collect();
            format!("no such bug; there are {}", names.join(", "))
        })
    }
}
