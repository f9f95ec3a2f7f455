//! Every kind of refusal, as a job that gets it and the words that it gets.

/// One job that is refused.
pub(super) struct Case {
    name: &'static str,
    /// HCL in the group, its meta among it.
    group: String,
    /// The calling task's arguments after `exec saddlebag`.
    call: &'static str,
    /// HCL of one more task.
    task: String,
    /// The main task's driver and config.
    main: &'static str,
    pub code: u8,
    pub message: String,
    pub hint: Option<String>,
}

const RAW: &str = r#"driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["600"]
      }"#;

const DOCKER: &str = r#"driver = "docker"
      config {
        image        = "saddlebag-test:1"
        network_mode = "host"
        command      = "sleep"
        args         = ["600"]
      }"#;

/// A task that puts a symbolic link into the main task's directory before that is there.
fn planter(link: &str, target: &str) -> String {
    format!(
        r#"task "planter" {{
      driver = "raw_exec"
      lifecycle {{
        hook = "prestart"
      }}
      config {{
        command = "/bin/sh"
        args    = ["-ec", "cd $NOMAD_ALLOC_DIR/..; mkdir -p main/local; ln -s {target} main/{link}; touch $NOMAD_ALLOC_DIR/planted"]
      }}
    }}"#
    )
}

const AFTER_PLANTING: &str = "until [ -e $NOMAD_ALLOC_DIR/planted ]; do sleep 0.05; done; exec saddlebag mount";

impl Case {
    /// A group with this meta is refused as configuration.
    fn meta(name: &'static str, meta: &str, message: &str, hint: &str) -> Self {
        Self {
            name,
            group: format!("meta {{\n{meta}\n}}"),
            call: "exec saddlebag mount",
            task: String::new(),
            main: RAW,
            code: 78,
            message: message.to_owned(),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        }
    }

    fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    fn group(mut self, hcl: &str) -> Self {
        self.group = format!("{}\n{hcl}", self.group);
        self
    }

    fn planted(mut self, link: &str, target: &str, main: &'static str) -> Self {
        self.task = planter(link, target);
        self.call = AFTER_PLANTING;
        self.main = main;
        self.code(77)
    }

    pub fn job(&self, is_logged: bool) -> String {
        format!(
            r#"
job "{}" {{
  group "app" {{
    restart {{
      attempts = 0
      mode     = "fail"
    }}
    reschedule {{
      attempts  = 0
      unlimited = false
    }}
    {}
    task "storage" {{
      driver = "raw_exec"
      lifecycle {{
        hook = "prestart"
      }}
      config {{
        command = "/bin/sh"
        args    = ["-ec", "{}"]
      }}
      logs {{
        disabled = {}
      }}
      resources {{
        cpu    = 20
        memory = 16
      }}
    }}
    {}
    task "main" {{
      {}
      resources {{
        cpu    = 20
        memory = 16
      }}
    }}
  }}
}}
"#,
            self.id(is_logged),
            self.group,
            self.call,
            !is_logged,
            self.task,
            self.main
        )
    }

    pub fn id(&self, is_logged: bool) -> String {
        format!("{}-{}", self.name, if is_logged { "logged" } else { "quiet" })
    }

    /// What the calling task says, whole.
    pub fn said(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("  hint: {hint}\n")).unwrap_or_default();
        format!("saddlebag: {}\n{hint}", self.message)
    }
}

fn block(text: &str) -> String {
    format!("storage_volume = <<EOT\n{text}\nEOT")
}

/// All of them; planted links lead to the directory `elsewhere`.
pub(super) fn cases(elsewhere: &str) -> Vec<Case> {
    let local = "write local/letters; docker can show it elsewhere by volumes = [\"local/letters:/data\"]";
    let at = |destination: &str| format!("storage_volume = \"letters\"\nstorage_destination = \"{destination}\"");
    let moved = "write the destination volumes/letters, which Nomad leaves alone; docker shows it by volumes = [\"volumes/letters:/data\"]";
    let sticky = |option: &str| {
        format!(
            "group \"app\" has ephemeral_disk {{ {option} = true }}, with which Nomad would move the files of volume \"letters\" out of local/letters"
        )
    };
    let symlink = "destinations are not followed over symbolic links: remove it or choose another";
    let letters = "storage_volume = \"letters\"";
    let of_main = "storage_tasks = \"main\"";
    vec![
        Case::meta(
            "key",
            "storage_volumme = \"letters\"",
            "unknown key \"storage_volumme\" in the meta of group \"app\"",
            "did you mean \"storage_volume\"?",
        ),
        Case::meta(
            "volume",
            "storage_volume = \"leters\"",
            "no volume \"leters\" is registered on this node",
            "did you mean \"letters\"?",
        ),
        Case::meta(
            "volume-far",
            "storage_volume = \"zzz\"",
            "no volume \"zzz\" is registered on this node",
            "the operator registers it with a block volume \"zzz\" in the agent's configuration, or with `saddlebag volume register`",
        ),
        Case::meta(
            "secrets",
            &at("secrets/x"),
            "the destination \"secrets/x\" of volume \"letters\" is in secrets/, which belongs to Nomad",
            local,
        ),
        Case::meta(
            "shared",
            &at("alloc/data"),
            "the destination \"alloc/data\" of volume \"letters\" is in alloc/, which belongs to Nomad",
            local,
        ),
        Case::meta(
            "local",
            &at("local"),
            "the destination \"local\" of volume \"letters\" is the directory that Nomad makes for the task",
            local,
        ),
        Case::meta(
            "up",
            &at("local/../../x"),
            "the destination \"local/../../x\" of volume \"letters\" has a component \"..\", and may not leave the task's directory",
            local,
        ),
        Case::meta(
            "absolute",
            &at("/data"),
            "the destination \"/data\" of volume \"letters\" is absolute, and has to be below the task's directory",
            "write local/data; docker can show it elsewhere by volumes = [\"local/data:/data\"]",
        ),
        Case::meta("sticky", letters, &sticky("sticky"), moved).group("ephemeral_disk {\n sticky = true\n}"),
        Case::meta("migrate", letters, &sticky("migrate"), moved).group("ephemeral_disk {\n migrate = true\n}"),
        Case::meta(
            "url",
            "storage_volume = \"host:///etc/ssl\"",
            "the policy of this node does not allow the URL host:///etc/ssl",
            "the operator allows it with policy { allow_url = [\"host:///etc/ssl\"] } in the agent's configuration",
        )
        .code(77),
        Case::meta(
            "scheme",
            "storage_volume = \"hots:///etc/ssl\"",
            "\"hots:///etc/ssl\" is not a storage URL that can be used: \"hots\" is not a scheme of storage",
            "did you mean host://?",
        ),
        Case::meta(
            "places",
            &block(
                "volume \"letters\" {\n destination = \"local/x\"\n}\nvolume \"notes\" {\n destination = \"local/x\"\n}",
            ),
            "volumes \"letters\" and \"notes\" are both at local/x of task \"main\"",
            "give each a label and a destination of its own",
        ),
        Case::meta(
            "inside",
            &block("volume \"letters\" {\n}\nvolume \"notes\" {\n destination = \"local/letters/x\"\n}"),
            "volume \"notes\" at local/letters/x of task \"main\" is inside volume \"letters\" at local/letters",
            "give each a label and a destination of its own",
        ),
        Case::meta(
            "words",
            "storage_volume = \"letters and notes\"",
            "storage_volume is neither one name or URL nor volume blocks: \"letters and notes\"",
            "write one name, or for several volumes a block volume \"NAME\" { } for each, each on lines of its own",
        ),
        Case::meta(
            "hcl",
            &block("volume \"letters\" {\n destination =\n}"),
            "storage_volume, line 2, column 15: this is not HCL: invalid expression; expected `\"`, `[`, `{`, `-`, `!`, `(`, `_`, `<`, letter or digit",
            "",
        ),
        Case::meta(
            "block-key",
            &block("volume \"letters\" {\n readonly = true\n}"),
            "storage_volume, line 2, column 2: unknown key \"readonly\" in volume \"letters\"",
            "did you mean \"read_only\"?",
        ),
        Case::meta(
            "long",
            &format!("storage_volume = \"{}\"", "x".repeat(64 << 10)),
            "the storage words of this job have 65536 bytes, and fewer than 65536 are read",
            "say it shorter",
        ),
        Case::meta(
            "reference",
            "storage_volume = \"letters-${NOMAD_ALLOC_INDX}\"",
            "storage_volume has ${NOMAD_ALLOC_INDX}, which Nomad does not know for this task",
            "did you mean ${NOMAD_ALLOC_INDEX}?",
        ),
        Case::meta(
            "yes",
            "storage_volume = \"letters\"\nstorage_read_only = \"yes\"",
            "storage_read_only is \"yes\", which is neither true nor false",
            "write storage_read_only = \"true\" or \"false\"",
        ),
        Case::meta(
            "task",
            "storage_volume = \"letters\"\nstorage_tasks = \"mian\"",
            "storage_volume names the task \"mian\", which group \"app\" does not have",
            "did you mean \"main\"?",
        ),
        Case::meta(
            "absent",
            "storage_volume = \"absent\"",
            "volume absent has no directory absent on backend disk",
            "create it there, or write create = true into the definition of volume absent if it may be new",
        ),
        Case {
            call: "exec saddlebag mount --task stroage",
            ..Case::meta("call", letters, "group \"app\" has no task \"stroage\"", "did you mean \"storage\"?")
        }
        .code(64),
        Case::meta(
            "link-last",
            &format!("{letters}\n{of_main}"),
            "volume letters: local/letters of task main is a symbolic link",
            symlink,
        )
        .planted("local/letters", elsewhere, DOCKER),
        Case::meta(
            "link-way",
            &format!("{}\n{of_main}", at("local/evil/x")),
            "volume letters: local/evil, on the way to local/evil/x of task main, is a symbolic link",
            symlink,
        )
        .planted("local/evil", elsewhere, DOCKER),
        Case::meta(
            "link-raw",
            &format!("{}\n{of_main}", at("local/evil/x")),
            "volume letters: local/evil, on the way to local/evil/x of task main, is a symbolic link",
            symlink,
        )
        .planted("local/evil", elsewhere, RAW),
        Case::meta(
            "link-raw-last",
            &format!("{letters}\n{of_main}"),
            "volume letters: local/letters of task main is a symbolic link",
            symlink,
        )
        .planted("local/letters", elsewhere, RAW),
    ]
}
