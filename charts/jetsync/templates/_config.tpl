{{/* The configuration: values.config with what the other values add to it, and what follows from it. */}}

{{- define "jetsync.configDir" -}}/etc/jetsync{{- end -}}
{{- define "jetsync.secretsDir" -}}/var/run/secrets/jetsync{{- end -}}

{{/* "true" when the file comes from elsewhere, so that nothing is known of what stands in it. */}}
{{- define "jetsync.existing" -}}
{{- if or .Values.existingConfig.configMap .Values.existingConfig.secret -}}true{{- end -}}
{{- end -}}

{{- define "jetsync.stateDir" -}}
{{- if include "jetsync.existing" . -}}
{{- .Values.existingConfig.stateDir -}}
{{- else -}}
{{- .Values.config.state_dir | default "/var/lib/jetsync" -}}
{{- end -}}
{{- end -}}

{{- define "jetsync.port" -}}
{{- if include "jetsync.existing" . -}}
{{- .Values.existingConfig.port -}}
{{- else -}}
{{- $http := kindIs "map" .Values.config.http | ternary .Values.config.http dict -}}
{{- regexFind "[0-9]+$" ($http.listen | default "127.0.0.1:9477") -}}
{{- end -}}
{{- end -}}

{{/* File in the projected volume -> where it comes from: [{file, secret | configMap, key}]. */}}
{{- define "jetsync.secretFiles" -}}
{{- $files := list -}}
{{- range $file := list "credentials" "nkey" "password" "token" -}}
{{- $secret := (get $.Values.nats $file).secret -}}
{{- if $secret.name -}}
{{- $files = append $files (dict "file" $file "secret" $secret.name "key" $secret.key) -}}
{{- end -}}
{{- end -}}
{{- with .Values.tls -}}
{{- if .enabled -}}
{{- if and .secretName .keys.ca (not .caConfigMap.name) -}}
{{- $files = append $files (dict "file" "ca.crt" "secret" .secretName "key" .keys.ca) -}}
{{- end -}}
{{- if and .secretName .keys.cert -}}
{{- $files = append $files (dict "file" "tls.crt" "secret" .secretName "key" .keys.cert) -}}
{{- $files = append $files (dict "file" "tls.key" "secret" .secretName "key" .keys.key) -}}
{{- end -}}
{{- if .caConfigMap.name -}}
{{- $files = append $files (dict "file" "ca.crt" "configMap" .caConfigMap.name "key" .caConfigMap.key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $files -}}
{{- end -}}

{{/* The configuration file. */}}
{{- define "jetsync.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $nats := kindIs "map" $config.nats | ternary $config.nats dict -}}
{{- with .Values.nats.url -}}
{{- $_ := set $nats "servers" (regexSplit "\\s*,\\s*" (trim .) -1) -}}
{{- end -}}
{{- with .Values.nats.user -}}
{{- $_ := set $nats "user" . -}}
{{- end -}}
{{- $tls := kindIs "map" $nats.tls | ternary $nats.tls dict -}}
{{- $keys := dict "credentials" "credentials_file" "nkey" "nkey_seed_file" "password" "password_file" "token" "token_file" -}}
{{- $tlsKeys := dict "ca.crt" "ca_file" "tls.crt" "cert_file" "tls.key" "key_file" -}}
{{- range include "jetsync.secretFiles" . | fromYamlArray -}}
{{- $path := printf "%s/%s" (include "jetsync.secretsDir" $) .file -}}
{{- if hasKey $keys .file -}}
{{- $_ := set $nats (get $keys .file) $path -}}
{{- else -}}
{{- $_ := set $tls (get $tlsKeys .file) $path -}}
{{- end -}}
{{- end -}}
{{- if $tls -}}
{{- $_ := set $nats "tls" $tls -}}
{{- end -}}
{{- $_ := set $config "nats" $nats -}}
{{- if not $config.name -}}
{{- $names := dict "Deployment" (include "jetsync.fullname" .) "DaemonSet" "${NODE_NAME}" "StatefulSet" "${POD_NAME}" -}}
{{- $_ := set $config "name" (get $names .Values.kind) -}}
{{- end -}}
# Made by Helm from the values of the release {{ .Release.Name }}.
{{ toYaml $config }}
{{- end -}}

{{/* What a running agent doesn't take over: it rolls the pods also with reload: watch. */}}
{{- define "jetsync.restartChecksum" -}}
{{- $config := include "jetsync.config" . | fromYaml -}}
{{- list $config.name $config.state_dir $config.nats.domain $config.nats.embedded | toJson | sha256sum -}}
{{- end -}}

{{/* Mappings, publications and subscriptions that have a directory: [{where, name, directory, mode}]. */}}
{{- define "jetsync.entries" -}}
{{- $entries := list -}}
{{- if not (include "jetsync.existing" .) -}}
{{- range $index, $entry := .Values.config.mappings -}}
{{- $mode := $entry.mode | default "two-way" -}}
{{- $entries = append $entries (dict "where" (printf "config.mappings[%d]" $index) "name" $entry.name "directory" $entry.directory "mode" $mode) -}}
{{- end -}}
{{- range $index, $entry := .Values.config.publications -}}
{{- if $entry.directory -}}
{{- $entries = append $entries (dict "where" (printf "config.publications[%d]" $index) "name" $entry.name "directory" $entry.directory "mode" "push-publication") -}}
{{- end -}}
{{- end -}}
{{- range $index, $entry := .Values.config.subscriptions -}}
{{- $entries = append $entries (dict "where" (printf "config.subscriptions[%d]" $index) "name" $entry.name "directory" $entry.directory "mode" "pull-subscription") -}}
{{- end -}}
{{- end -}}
{{- toYaml $entries -}}
{{- end -}}

{{/* The servers' addresses. */}}
{{- define "jetsync.servers" -}}
{{- if .Values.nats.url -}}
{{- toYaml (regexSplit "\\s*,\\s*" (trim .Values.nats.url) -1) -}}
{{- else -}}
{{- $nats := kindIs "map" .Values.config.nats | ternary .Values.config.nats dict -}}
{{- toYaml ($nats.servers | default list) -}}
{{- end -}}
{{- end -}}

{{/* The ports of the servers' addresses, without doubles. */}}
{{- define "jetsync.natsPorts" -}}
{{- $ports := list -}}
{{- range include "jetsync.servers" . | fromYamlArray -}}
{{- $default := hasPrefix "wss:" . | ternary "443" (hasPrefix "ws:" . | ternary "80" "4222") -}}
{{- $ports = append $ports (regexFind ":[0-9]+/?$" . | trimPrefix ":" | trimSuffix "/" | default $default | int) -}}
{{- end -}}
{{- toYaml ($ports | uniq | default (list 4222)) -}}
{{- end -}}
