# shellcheck shell=bash
# DevStack plugin: installs stackmend, has Nova and Octavia tell it what happens, and runs it.

function install_stackmend {
    python3 -m venv "$STACKMEND_VENV"
    "$STACKMEND_VENV/bin/pip" install -e "${STACKMEND_DIR}[mysql,postgresql]"
}

# Have the publishers fill queues of our own; runs when their files are written and they are not yet started.
function configure_publishers {
    local conf
    for conf in "$NOVA_CONF" "$NOVA_CPU_CONF" $(ls "${NOVA_CONF_DIR:-/etc/nova}"/nova_cell*.conf 2>/dev/null); do
        if [[ -f "$conf" ]]; then
            iniset "$conf" notifications notification_format versioned
            iniset "$conf" notifications versioned_notifications_topics versioned_notifications,stackmend
            iniset "$conf" oslo_messaging_notifications driver messagingv2
        fi
    done
    if [[ -f "${OCTAVIA_CONF:-/etc/octavia/octavia.conf}" ]]; then
        conf=${OCTAVIA_CONF:-/etc/octavia/octavia.conf}
        iniset "$conf" oslo_messaging_notifications driver messagingv2
        iniset "$conf" oslo_messaging_notifications topics notifications,stackmend
    fi
}

function configure_stackmend {
    sudo install -d -o "$STACK_USER" "$STACKMEND_CONF_DIR"
    install -d "$DATA_DIR/stackmend"
    install -m 600 /dev/null "$STACKMEND_CONF"
    iniset "$STACKMEND_CONF" nova config_file "$NOVA_CONF"
    if is_service_enabled octavia o-api; then
        iniset "$STACKMEND_CONF" octavia config_file "${OCTAVIA_CONF:-/etc/octavia/octavia.conf}"
    fi
    iniset "$STACKMEND_CONF" journal connection "sqlite:///$DATA_DIR/stackmend/journal.sqlite"
    iniset "$STACKMEND_CONF" status port 9795
    iniset "$STACKMEND_CONF" status page True
}

if is_service_enabled stackmend; then
    if [[ "$1" == "stack" && "$2" == "install" ]]; then
        install_stackmend
    elif [[ "$1" == "stack" && "$2" == "post-config" ]]; then
        configure_publishers
        configure_stackmend
    elif [[ "$1" == "stack" && "$2" == "test-config" ]]; then
        run_process stackmend "$STACKMEND_VENV/bin/stackmend --config-file $STACKMEND_CONF run $STACKMEND_ARGUMENTS"
    elif [[ "$1" == "unstack" ]]; then
        stop_process stackmend
    elif [[ "$1" == "clean" ]]; then
        rm -rf "$STACKMEND_VENV" "$DATA_DIR/stackmend"
        sudo rm -rf "$STACKMEND_CONF_DIR"
    fi
fi
